"""``setsuden doctor``: what this machine and its broker are good for, and what to do."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .failure import FAILED
from .lazy import quiet_logs

if TYPE_CHECKING:
    from setsuden.edge_agent.config import AgentConfig
    from setsuden.link import LinkOptions
    from setsuden.services.config import CloudConfig

    from .checks.machine import CheckedMachine, CheckResult

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_WIDTH = 98


@click.command()
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SETSUDEN_CONFIG",
    help="agent.toml or cloud.toml whose broker and folders are meant.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def doctor(path: Path | None, as_json: bool) -> None:
    """Check Python, onnxruntime, disk, clock, power sensor, Ray and the broker.

    Every warning and failure names its cause and one remedy. Exit code 0 when nothing failed.
    """
    from .checks.machine import CheckedMachine  # noqa: PLC0415

    quiet_logs()
    findings = list(examine(CheckedMachine(), path))
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        rows = [finding._asdict() for finding in findings]
        click.echo(json.dumps({"ok": not failed, "findings": rows}, indent=2))
    else:
        click.echo(table(findings))
    if failed:
        sys.exit(FAILED)


def examine(machine: CheckedMachine, path: Path | None) -> Iterator[CheckResult]:
    """Every finding about the machine, and about the broker of the configuration."""
    from setsuden.edge_agent.config import AgentConfig  # noqa: PLC0415  # pydantic and more
    from setsuden.energy import EnergyOptions  # noqa: PLC0415
    from setsuden.energy.open import resolved  # noqa: PLC0415
    from setsuden.services.config import CloudConfig  # noqa: PLC0415

    from .checks import broker, host, software  # noqa: PLC0415

    config, wrong = _configuration(path)
    yield from wrong
    yield host.python(machine)
    yield host.libc(machine)
    yield host.cpu(machine)
    yield software.onnxruntime(machine, needed=path is not None)
    yield software.ray(machine, needed=isinstance(config, CloudConfig))
    yield software.extras(machine)
    base = path.parent if path is not None else Path()
    yield host.disk(
        machine,
        base / config.state if config else base,
        needed_bytes=_needed_bytes(config),
        outbox=isinstance(config, AgentConfig),
    )
    yield host.clock(machine)
    energy = config.energy if config else EnergyOptions()
    yield host.power(machine, resolved(energy, base, base / config.state if config else base))
    if not wrong:
        asker = broker.NOBODY if config is None else broker.asker_of(config)
        options = _link_options(config)
        yield from broker.check(options, configured=config is not None, asker=asker)


def _configuration(
    path: Path | None,
) -> tuple[AgentConfig | CloudConfig | None, list[CheckResult]]:
    """The configuration, or what is wrong with it."""
    from setsuden.process.config import read_text  # noqa: PLC0415
    from setsuden.schemas.errors import ConfigError  # noqa: PLC0415

    from .checks.machine import CheckResult, CheckStatus  # noqa: PLC0415
    from .loading import CLOUD, kind_of, load_agent, load_cloud  # noqa: PLC0415

    if path is None:
        return None, []
    try:
        kind = kind_of(path, read_text(path))
        config = load_cloud(path) if kind == CLOUD else load_agent(path)
    except ConfigError as error:
        seen, *rest = error.message.splitlines()
        cause = f"and {len(rest)} more problems" if rest else "the file cannot be used"
        return None, [
            CheckResult("config", CheckStatus.FAIL, seen, cause, f"setsuden validate {path}")
        ]
    return config, []


def _needed_bytes(config: AgentConfig | CloudConfig | None) -> int:
    if config is None:
        return 0
    outbox = getattr(config, "outbox", None)
    return config.traces.spool_max_bytes + (outbox.max_bytes if outbox is not None else 0)


def _link_options(config: AgentConfig | CloudConfig | None) -> LinkOptions:
    from setsuden.link import LinkOptions  # noqa: PLC0415  # nats

    # Without a file: where nats-server and its monitoring listen unless told otherwise.
    return config.nats if config else LinkOptions(monitor_url="http://127.0.0.1:8222")


def table(findings: list[CheckResult]) -> str:
    """One line for each finding, cause and remedy below those that need them."""
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    for finding in findings:
        mark = click.style(f"{finding.status:<4}", fg=_COLOURS[finding.status], bold=True)
        indent = " " * (width + 8)
        words = textwrap.wrap(finding.seen, _WIDTH, initial_indent=indent, subsequent_indent=indent)
        lines.append(f"{mark}  {finding.name:<{width}}  {words[0].strip()}")
        lines += words[1:]
        if finding.status != "ok":
            lines += [f"{indent}{text}" for text in _advice(finding)]
    counts = [sum(finding.status == status for finding in findings) for status in _COLOURS]
    lines.append(f"\n{counts[0]} ok, {counts[1]} to look at, {counts[2]} failed")
    return "\n".join(lines)


def _advice(finding: CheckResult) -> Iterator[str]:
    if finding.cause:
        yield f"cause:  {finding.cause}"
    if finding.remedy:
        yield f"remedy: {click.style(finding.remedy, bold=True)}"
