"""``setsuden energy watch``: windows of this machine as they close."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from setsuden.cli.energy.options import energy_config_option, energy_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from setsuden.energy import EnergyOptions, Meter
    from setsuden.energy.sensors.relay import RelayServer
    from setsuden.schemas.windows import WindowRow

_HEAD = f"{'time':<10}{'power':>10}{'idle':>10}{'energy':>11}{'busy':>9}{'process':>10}  quality"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be watched."""

    pid: int | None
    monitor_url: str | None
    keep: bool
    name: str


@click.command()
@energy_config_option
@click.option("--windows", type=click.IntRange(1), help="Stop after so many; else at Ctrl-C.")
@click.option("--every", type=click.FloatRange(0.1, 60), help="Seconds of a window.")
@click.option("--pid", type=click.IntRange(1), help="The process to follow: a broker of yours.")
@click.option(
    "--broker",
    "monitor_url",
    metavar="URL",
    help="Follow nats-server, and spread its joules over the messages that its monitoring "
    "address (http://host:8222) tells of.",
)
@click.option(
    "--rows",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep rows in this folder, as those of a broker, for `setsuden report`.",
)
@click.option("--name", default="nats", show_default=True, help="Of the broker, in its rows.")
@click.option(
    "--serve",
    type=click.Path(path_type=Path),
    help="Offer the readings on this UNIX socket to processes that may not read the sensor.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON row a line.")
def watch(  # noqa: PLR0917  # click hands over each option
    path: Path | None,
    windows: int | None,
    every: float | None,
    pid: int | None,
    monitor_url: str | None,
    rows: Path | None,
    name: str,
    serve: Path | None,
    as_json: bool,
) -> None:
    """Show windows as they close: power, where it is from, and who used the CPU."""
    from setsuden.process.service import ServiceManager  # noqa: PLC0415  # asyncio

    options = energy_of(path)
    if every is not None:
        options = options.model_copy(update={"window_seconds": every})
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        if serve is not None:
            stack.callback(_serving(options, serve).close)
        kept = rows or stack.enter_context(tempfile.TemporaryDirectory(prefix="setsuden-"))
        options = options.model_copy(update={"rows": str(kept)})
        meter = _meter(options, Wish(pid, monitor_url, rows is not None, name))
        stack.callback(meter.close)
        show = _Shown(stop, windows, as_json=as_json)
        show.begin(meter)
        meter.on_row = show
        meter.start()
        manager = ServiceManager()
        manager.ready()
        stop.wait()
        manager.stopping()


class _Shown:
    """Each window on standard output."""

    def __init__(self, stop: threading.Event, windows: int | None, *, as_json: bool) -> None:
        self._stop, self._left, self._as_json = stop, windows, as_json

    def begin(self, meter: Meter) -> None:
        """Say what is read, on standard error."""
        row = meter.journal.meter
        factor = "unknown" if row.factor is None else f"x/÷{row.factor:.2f}"
        click.echo(
            f"{row.sensor}: {row.source}, {row.boundary or 'no boundary'}, {factor}\n{row.origin}",
            err=True,
        )
        if not self._as_json:
            click.echo(_HEAD)

    def __call__(self, row: WindowRow) -> None:
        """One window."""
        if self._left == 0:
            return
        click.echo(row.model_dump_json() if self._as_json else _line(row))
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._stop.set()


def _line(row: WindowRow) -> str:
    watts = "none" if row.joules is None else f"{row.joules / row.seconds:.2f} W"
    idle = "none" if row.idle_watts is None else f"{row.idle_watts:.2f} W"
    joules = "none" if row.joules is None else f"{row.joules:.3f} J"
    at = time.strftime("%H:%M:%S", time.gmtime(row.start_ns / 1e9))
    return (
        f"{at:<10}{watts:>10}{idle:>10}{joules:>11}{row.busy_cpu_seconds:>7.2f} s"
        f"{row.process_cpu_seconds:>8.3f} s  {row.quality}"
    )


def _meter(options: EnergyOptions, wish: Wish) -> Meter:
    from setsuden.energy.broker import BrokerCounts, broker_meter  # noqa: PLC0415
    from setsuden.energy.open import Identity, fingerprint  # noqa: PLC0415
    from setsuden.schemas.windows import Component, Counts  # noqa: PLC0415
    from setsuden.telemetry.options import TraceOptions  # noqa: PLC0415
    from setsuden.telemetry.resource import host_id  # noqa: PLC0415

    identity = Identity(Component.BROKER, wish.name, host_id(TraceOptions()), fingerprint(options))
    counts = Counts if wish.monitor_url is None else BrokerCounts(wish.monitor_url)
    return broker_meter(options, identity, counts, find=_followed(wish))


def _followed(wish: Wish) -> Callable[[], list[int]] | None:
    """The process that was named; None for every nats-server; nothing when nobody asked."""
    pid = wish.pid
    if pid is not None:
        return lambda: [pid]
    return None if wish.monitor_url is not None or wish.keep else list


def _serving(options: EnergyOptions, path: Path) -> RelayServer:
    """A relay of the best source that this process may read; raises ConfigError without one."""
    from setsuden.energy.host.system import Host  # noqa: PLC0415
    from setsuden.energy.sensors.detect import detect  # noqa: PLC0415
    from setsuden.energy.sensors.relay import RelayServer  # noqa: PLC0415
    from setsuden.schemas.errors import ConfigError  # noqa: PLC0415

    host = Host()
    chosen = detect(options.model_copy(update={"relay": None}), host).chosen
    if chosen.open is None:
        raise ConfigError("there is no source to serve", remedy="setsuden energy doctor")
    server = RelayServer(chosen.open(), chosen.domains, chosen.primary, path, host.clock)
    server.start()
    click.echo(f"serving {chosen.name} on {path}", err=True)
    return server
