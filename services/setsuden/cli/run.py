"""The commands that run a tier: agent, worker, cloud."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from setsuden.schemas.errors import ConfigError

from .lazy import needs, quiet_logs
from .loading import config_option, load_agent, load_cloud, set_option

if TYPE_CHECKING:
    from setsuden.schemas.streams import PlannedStream


RELOAD_SECONDS = 120.0
"""A trial of a model that takes longer goes on, and the agent's log tells of its end."""


class Finite(click.FloatRange):
    """A number within bounds; NaN is refused, though it compares with neither bound."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse NaN as well."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def _hold_hangup() -> None:
    """Keep SIGHUP waiting until the process can answer it with a reload; by itself it kills."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


@click.group()
def agent() -> None:
    """Run the edge agent."""


@agent.command("run")
@config_option("agent.toml")
@set_option
def agent_run(path: Path, assignments: Sequence[str]) -> None:
    """Accept events, answer the easy ones, escalate the hard ones.

    Starts and answers without any network. Ends cleanly on SIGTERM; the log goes to standard
    error, one JSON object a line.
    """
    _hold_hangup()
    config = load_agent(path, assignments)
    with needs("edge"):
        from setsuden.edge_agent.process import run_agent  # noqa: PLC0415  # numpy, uvicorn
    sys.exit(run_agent(config, path.parent, partial(load_agent, path, assignments)))


@agent.command("reload")
@config_option("agent.toml")
@set_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def agent_reload(path: Path, assignments: Sequence[str], as_json: bool) -> None:
    """Have the running agent read its configuration and bundles again.

    Changed pipelines are opened and tried beside those in force, and replace them between two
    batches; no event is lost. When anything is wrong nothing changes, and this says why. Sends
    SIGHUP to the process that uses the state folder, and waits for the outcome.
    """
    quiet_logs()
    config = load_agent(path, assignments)
    from setsuden.edge_agent.outbox.files import LOCK  # noqa: PLC0415  # sqlite
    from setsuden.process import reload  # noqa: PLC0415  # asyncio

    state = path.parent / config.state
    outcome = reload.request(state / LOCK, state / reload.OUTCOME_FILE, RELOAD_SECONDS)
    if outcome.message:
        raise ConfigError(f"nothing was reloaded: {outcome.message}", remedy=outcome.remedy)
    if as_json:
        names = {"applied": outcome.applied, "restart_needed": outcome.restart_needed}
        click.echo(json.dumps(names))
        return
    click.echo(f"reloaded: {', '.join(outcome.applied) or 'nothing has changed'}")
    if outcome.restart_needed:
        click.echo(f"needs a restart: {', '.join(outcome.restart_needed)}")


@agent.command("salvage")
@config_option("agent.toml")
@set_option
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def agent_salvage(
    path: Path, assignments: Sequence[str], sources: tuple[Path, ...], as_json: bool
) -> None:
    """Queue again what can be read of damaged outboxes; the agent must not run.

    SOURCES are the `damaged-...` folders that the agent set aside, or database files; without
    any, all of them in the state folder. A folder that was read is renamed to `salvaged-...`.
    """
    quiet_logs()
    config = load_agent(path, assignments)
    with needs("edge"):
        from setsuden.edge_agent.outbox import files, salvage  # noqa: PLC0415  # numpy

    state = path.parent / config.state
    wanted = sources or tuple(state / name for name in files.set_aside(state))
    reports, failed = [], None
    for source in wanted:
        try:
            report = salvage.salvage(source, state, _progress)
        except ConfigError as error:  # there may be something in the next one
            failed = failed or error
            continue
        reports.append(report)
        if not as_json:
            click.echo(
                f"{report.source}: {report.open_events} events and {report.finals} results queued "
                f"again, {report.already} there already, {report.unreadable} unreadable"
            )
    if as_json:
        click.echo(json.dumps([report._asdict() for report in reports]))
    elif not wanted:
        click.echo("nothing was set aside")
    left = [name for name in files.set_aside(state) if state / name not in wanted]
    if left and not as_json:
        click.echo(f"not salvaged yet: {', '.join(left)}")
    if failed is not None:
        raise failed
    sys.exit(1 if any(report.unreadable for report in reports) else 0)


def _progress(number: int) -> None:
    if number % 1000 == 0 and sys.stderr.isatty():
        click.echo(f"\r{number} rows", nl=False, err=True)


@click.group()
def worker() -> None:
    """Run a teacher worker without Ray."""


@worker.command("run")
@config_option("cloud.toml")
@set_option
@click.option("--pipeline", help="Whose teacher to run; without it all, a process for each.")
def worker_run(path: Path, assignments: Sequence[str], pipeline: str | None) -> None:
    """Pull hard cases, run the teacher, store each result once.

    The same worker that runs inside a Ray Serve replica, as a plain process. Where the file
    declares several pipelines, each gets a process of its own, started again whenever it ends.
    """
    _hold_hangup()
    config = load_cloud(path, assignments)
    if pipeline is None and len(config.pipelines) > 1:
        from setsuden.services.worker_group import run_workers  # noqa: PLC0415  # asyncio

        sys.exit(run_workers(config, path, assignments))
    with needs("edge"):
        from setsuden.services.worker.process import run_worker  # noqa: PLC0415  # numpy
    load = partial(load_cloud, path, assignments)
    sys.exit(run_worker(config, path.parent, pipeline, load))


@click.group()
def cloud() -> None:
    """Run teachers on Ray Serve; set up streams."""


@cloud.command("run")
@config_option("cloud.toml")
@set_option
@click.option("--address", help="An existing Ray cluster; without it a local one is started.")
def cloud_run(path: Path, assignments: Sequence[str], address: str | None) -> None:
    """Deploy the teachers on Ray Serve and keep them running."""
    _hold_hangup()
    config = load_cloud(path, assignments)
    with needs("cloud"):
        from setsuden.services.serve.supervise import run_cloud  # noqa: PLC0415  # much
    load = partial(load_cloud, path, assignments)
    sys.exit(run_cloud(config, path.parent, address, load))


@cloud.command("bridge")
@config_option("cloud.toml")
@set_option
@click.option("--endpoint", help="OTLP/HTTP, e.g. http://127.0.0.1:4318; over [bridge].")
@click.option(
    "--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="OTLP JSON Lines."
)
def cloud_bridge(
    path: Path, assignments: Sequence[str], endpoint: str | None, file: Path | None
) -> None:
    """Pass spans on from the broker to Jaeger, or to any other OTLP/HTTP endpoint or a file.

    Spans wait in the broker while the endpoint is away, and are acknowledged once it has them.
    """
    wanted = [*assignments]
    if endpoint is not None:
        wanted.append(f"bridge.endpoint={endpoint}")
    if file is not None:
        wanted.append(f"bridge.file={file.resolve()}")
    _hold_hangup()
    config = load_cloud(path, wanted)
    with needs("edge"):
        from setsuden.services.bridge.process import run_bridge  # noqa: PLC0415  # protobuf
    sys.exit(run_bridge(config, path.parent, partial(load_cloud, path, wanted)))


@cloud.command("serve-config")
@config_option("cloud.toml")
def cloud_serve_config(path: Path) -> None:
    """Print what `serve deploy` takes: for a Ray cluster that others run.

    The configuration file must lie at the same place on the cluster's head, where Serve builds
    the application. `cloud run --address` needs no file there.
    """
    config = load_cloud(path)
    with needs("cloud"):
        from setsuden.services.serve.app import document  # noqa: PLC0415  # ray
    click.echo(json.dumps(document(config, path), indent=2))


@cloud.command("accounts")
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--jwt", "as_jwt", is_flag=True, help="JSON claims for signed JWTs instead.")
def cloud_accounts(path: Path, as_jwt: bool) -> None:
    """Print the broker's accounts for everybody that PATH (broker.toml) names.

    Every principal has an account of its own. Passwords are read from the server's environment,
    one variable for each; a principal with an `nkey` needs none.
    """
    from setsuden.process.config import load_toml, validate  # noqa: PLC0415
    from setsuden.schemas.roles import Site  # noqa: PLC0415
    from setsuden.services import accounts  # noqa: PLC0415

    site = validate(Site, load_toml(path))
    if as_jwt:
        click.echo(json.dumps(accounts.templates(site), indent=2))
    else:
        click.echo(accounts.configuration(site, path.name), nl=False)


@cloud.command("streams")
@config_option("cloud.toml")
@set_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option(
    "--serve",
    is_flag=True,
    help="Then serve: read events for devices, free their space, warn of streams that fill.",
)
@click.option(
    "--plan",
    "rate",
    type=Finite(min=0, max=1_000_000, min_open=True),
    metavar="RATE",
    help="Change nothing: print the [streams] bounds for so many events a second.",
)
@click.option("--escalated", type=Finite(0, 1), default=0.2, show_default=True)
@click.option("--event-bytes", type=click.IntRange(1, 64 << 20), default=1000, show_default=True)
def cloud_streams(  # noqa: PLR0917  # click passes options by name
    path: Path,
    assignments: Sequence[str],
    as_json: bool,
    serve: bool,
    rate: float | None,
    escalated: float,
    event_bytes: int,
) -> None:
    """Make streams and consumers as declared; nothing that is right is touched.

    Needs the operator's credentials where the broker asks for any.
    """
    if serve:
        _hold_hangup()
    config = load_cloud(path, assignments)
    from setsuden.schemas import streams  # noqa: PLC0415

    if rate is not None:
        wanted = streams.Rates(events=rate, escalated=escalated, event_bytes=event_bytes)
        _print_plan(streams.plan(wanted, config.streams), as_json)
        return
    from setsuden.services.topology import apply  # noqa: PLC0415  # nats

    if serve:
        from setsuden.services.stream_service import serve_streams  # noqa: PLC0415  # nats

        sys.exit(serve_streams(config, partial(load_cloud, path, assignments)))
    quiet_logs()
    applied = apply(config)
    if as_json:
        changed = [name for name, differed in applied.items() if differed]
        unchanged = [name for name, differed in applied.items() if not differed]
        click.echo(json.dumps({"changed": changed, "unchanged": unchanged}))
        return
    for name, differed in applied.items():
        click.echo(f"{'changed' if differed else 'as declared':<12} {name}")


def _print_plan(rows: Sequence[PlannedStream], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
        return
    click.echo("[streams]")
    for row in rows:
        click.echo(f"{row.option} = {row.max_bytes}  # {row.reason}")
