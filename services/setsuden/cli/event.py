"""``setsuden event pub``: one event from the command line, and its answers."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from setsuden.schemas.errors import PayloadTooLargeError

from .failure import FAILED
from .lazy import quiet_logs
from .loading import AGENT, kind_of, load_agent, load_cloud

if TYPE_CHECKING:
    from setsuden.client import AsyncClient, AsyncHandle, LinkOptions, Result

DEFAULT_URL = "nats://127.0.0.1:4222"
MAX_FILE_BYTES = 64_000_000


@click.group()
def event() -> None:
    """Send an event and see its answers."""


@event.command("pub")
@click.argument("pipeline")
@click.argument("file", type=click.File("rb"))
@click.option("--device", required=True, help="The device whose agent is to answer.")
@click.option(
    "--url",
    "urls",
    multiple=True,
    envvar="NATS_URL",
    help=f"The broker's address, also from NATS_URL. Repeatable. Default: {DEFAULT_URL}.",
)
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="agent.toml or cloud.toml whose broker and credentials are used.",
)
@click.option("--content-type", default="application/octet-stream", show_default=True)
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds from now.")
@click.option("--key", help="Idempotency key: sent again, it gives the same result.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the result.")
@click.option("--json", "as_json", is_flag=True, help="The final result as JSON.")
def pub(  # noqa: PLR0917  # one argument for each option
    pipeline: str,
    file: IO[bytes],
    device: str,
    urls: tuple[str, ...],
    path: Path | None,
    content_type: str,
    deadline: float | None,
    key: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Send the bytes of FILE (- for standard input) to PIPELINE and print the final result.

    A provisional answer is told on standard error as it comes. Exit code 1 when the event ended
    as a dead letter or no result came in time.
    """
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PayloadTooLargeError(f"{file.name} is over {MAX_FILE_BYTES} bytes")
    from setsuden.client import AsyncClient  # noqa: PLC0415  # nats and pydantic

    quiet_logs()
    client = AsyncClient(
        urls or (None if path else DEFAULT_URL),
        device=device,
        options=_options(path),
        name="cli",
        submit_timeout_seconds=timeout,
    )
    sending = _sent(client, pipeline, data, content_type, deadline, key, timeout)
    result = asyncio.run(sending)
    click.echo(json.dumps(result.model_dump(mode="json")) if as_json else words(result))
    if result.status == "dead":
        sys.exit(FAILED)


def _options(path: Path | None) -> LinkOptions | None:
    """How the file's tier reaches its broker; an application asks for no durability."""
    if path is None:
        return None
    from setsuden.process.config import read_text  # noqa: PLC0415

    agent = kind_of(path, read_text(path)) == AGENT
    options = (load_agent(path) if agent else load_cloud(path)).nats
    return options.model_copy(update={"durability": "relaxed"})


async def _sent(  # noqa: PLR0917  # one argument for each option
    client: AsyncClient,
    pipeline: str,
    data: bytes,
    content_type: str,
    deadline: float | None,
    key: str | None,
    timeout: float,  # noqa: ASYNC109  # the option's name
) -> Result:
    async with client:
        handle = await client.submit(
            pipeline, data, content_type=content_type, deadline=deadline, idempotency_key=key
        )
        telling = asyncio.create_task(_tell(handle))
        try:
            result = await handle.result(timeout)
            await telling
            return result
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def _tell(handle: AsyncHandle) -> None:
    """Every answer before the final one, as it comes."""
    async for update in handle:
        if not update.is_final:
            click.echo(words(update), err=True)


def words(result: Result) -> str:
    """One answer in a line or two."""
    answer = result.answer
    said = f"{answer.label} ({answer.confidence:.1%})" if answer else "no answer"
    lines = [f"{result.status:<12} {said}  by {result.tier or '-'}"]
    if result.error is not None:
        lines.append(f"  error: {result.error.code}: {result.error.message}")
    if result.is_final:
        lines.append(f"  {_cost(result)}, event {result.event_id}, trace {result.trace_id}")
    return "\n".join(lines)


def _cost(result: Result) -> str:
    readings = [part for part in (result.energy.edge, result.energy.cloud) if part is not None]
    known = [part.joules for part in readings if part.joules is not None]
    sources = "/".join(sorted({part.source.value for part in readings}))
    spent = f"{1000 * sum(known):.3g} mJ ({sources})" if known else "energy unknown"
    total = result.timing.total_ms
    return spent if total is None else f"{total:.1f} ms, {spent}"
