"""``setsuden energy calibrate``: this machine's own power curve, against any meter there is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from setsuden.cli.energy.options import energy_config_option, energy_of
from setsuden.cli.lazy import quiet_logs

if TYPE_CHECKING:
    from setsuden.energy.calibration.calibrate import ReferenceMeter
    from setsuden.energy.calibration.measure import Mean, Running, Watts
    from setsuden.energy.host.system import Host
    from setsuden.energy.options import EnergyOptions
    from setsuden.energy.power_curve import Calibration, Point

AUTO, HUMAN = "auto", "human"
PLUG_FACTOR = 1.05
"""Of a plug that a person reads: what external meters get that declare nothing."""
_STEPS = 3
Ask = Callable[[str], str]


@click.command()
@energy_config_option
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    help="Length of each of the three steps.",
)
@click.option(
    "--meter",
    default=AUTO,
    show_default=True,
    metavar="auto|human|NAME",
    help="auto: the best one found; human: you read a plug; else a name of `energy doctor`.",
)
@click.option(
    "--watts",
    metavar="IDLE,HALF,FULL",
    help="Your answers for --meter human, as the plug showed them in an earlier run.",
)
@click.option(
    "--boundary",
    type=click.Choice(["wall_ac", "board_dc"]),
    default="wall_ac",
    show_default=True,
    help="What you read with --meter human: a plug, or a meter in the supply cable.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write; default what energy.calibration names.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def calibrate(  # noqa: PLR0917  # click hands over each option
    path: Path | None,
    seconds: float,
    meter: str,
    watts: str | None,
    boundary: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure this machine idle, half loaded and fully loaded, and keep its curve.

    Stop other work first. The load takes every CPU that this command may use; Ctrl-C ends it and
    writes nothing. Run it again after changes of hardware, cooling or power limits.
    """
    from setsuden.energy.calibration import load  # noqa: PLC0415  # pydantic and more
    from setsuden.energy.host.system import Host  # noqa: PLC0415

    quiet_logs()
    answers = _answers(watts, meter)
    options, host = energy_of(path), Host()
    ask = _asked if answers is None else answers.__getitem__
    target = out or Path(options.calibration)
    check_writable(target)
    with chosen(meter, boundary, options, host, ask) as found:
        made = measure(found, load.running, host, seconds, _tell)
    write(made, target)
    if as_json:
        document = {"file": str(target), "bend": made.exponent, **made.model_dump(mode="json")}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(table(made))
    click.echo(f"written to {target}{_hint(path, out)}", err=True)


def _hint(path: Path | None, out: Path | None) -> str:
    if path is not None and out is None:
        return ""
    return "; the agent reads what energy.calibration names, by default STATE/calibration.json"


@contextmanager
def chosen(
    meter: str, boundary: str, options: EnergyOptions, host: Host, ask: Ask
) -> Iterator[Watts]:
    """The meter, open; raises CalibrationError for one that is none."""
    from setsuden.energy.calibration.calibrate import ReferenceMeter  # noqa: PLC0415
    from setsuden.energy.calibration.measure import opened  # noqa: PLC0415
    from setsuden.schemas.energy import Boundary, Source  # noqa: PLC0415

    if meter == HUMAN:
        label = ReferenceMeter(HUMAN, Source.MEASURED, Boundary(boundary), PLUG_FACTOR)
        yield HumanWatts(label, ask, host)
        return
    from setsuden.energy.sensors.detect import detect  # noqa: PLC0415

    if meter != AUTO:
        options = options.model_copy(update={"sensor": meter})
    with opened(detect(options, host).chosen, host) as found:
        yield found


class HumanWatts:
    """Watts that a person reads from a plug."""

    def __init__(self, meter: ReferenceMeter, ask: Ask, host: Host) -> None:
        self.meter = meter
        self._ask, self._clock = ask, host.clock

    def mean(self, step: str, seconds: float) -> Mean:
        """What the person says at the end; the load goes on until then."""
        from setsuden.energy.calibration.measure import Mean  # noqa: PLC0415

        self._clock.sleep(seconds)
        watts, rounding = watts_read(self._ask(step))
        return Mean(watts, rounding / watts)


def watts_read(text: str) -> tuple[float, float]:
    """Watts, and the standard deviation of what their last digit rounds away."""
    try:
        number = Decimal(text.strip().removesuffix("W").replace(",", ".").strip())
    except InvalidOperation:
        raise click.BadParameter(f"{text!r} is no number of watts") from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or not 0 < number < 10**6:
        raise click.BadParameter(f"{text!r} W cannot be: watts are above 0")
    return float(number), float(Decimal(1).scaleb(exponent)) / sqrt(12)


def _asked(step: str) -> str:
    """A question on standard error; the answer is asked for again until it is a number."""

    def checked(text: str) -> str:
        watts_read(text)
        return text

    words = f"watts at {step} load, the mean of this step, with all digits shown"
    answer: str = click.prompt(words, value_proc=checked, err=True)
    return answer


def _answers(watts: str | None, meter: str) -> dict[str, str] | None:
    """Answers by step; None when a person is to be asked."""
    if watts is None:
        return None
    if meter != HUMAN:
        raise click.UsageError("--watts are answers: they need --meter human")
    parts = watts.split(",")
    if len(parts) != _STEPS:
        raise click.BadParameter(f"three figures are needed, not {len(parts)}: IDLE,HALF,FULL")
    for part in parts:
        watts_read(part)
    return dict(zip(("idle", "half", "full"), parts, strict=True))


def measure(
    watts: Watts, running: Running, host: Host, seconds: float, tell: Callable[[str], None]
) -> Calibration:
    """The three steps and their fit; raises CalibrationError."""
    from setsuden.energy.calibration import load  # noqa: PLC0415
    from setsuden.energy.calibration.calibrate import calibration, check_idle  # noqa: PLC0415
    from setsuden.energy.calibration.measure import points, settle_seconds  # noqa: PLC0415

    steps = load.steps(load.allowed(), host.root)
    label = watts.meter
    tell(
        f"{label.name} ({label.source}, {label.boundary}); {len(steps)} steps of "
        f"{settle_seconds(seconds):g} s to settle and {seconds:g} s to measure; load: {load.kind()}"
    )
    found: list[Point] = []

    def begun(step: str) -> None:
        work = steps[step]
        part = f", {work.duty:.0%} of the time" if work.duty < 1 else ""
        tell(f"{step}: {len(work.cpus)} of {len(steps['full'].cpus)} CPUs kept busy{part}")

    for step, point in points(watts, steps, running, host, seconds=seconds, begun=begun):
        tell(f"{step}: {point.watts:.2f} W ±{point.cv:.1%} at {point.utilisation:.1%} busy")
        if not found:
            check_idle(point)
        found.append(point)
    return calibration(found, label, load.kind(), host)


def _tell(words: str) -> None:
    click.echo(words, err=True)


def table(made: Calibration) -> str:
    """The three points and what the fit says."""
    lines = [f"{'load':<6}{'busy':>8}{'power':>12}{'scatter':>10}"]
    for name, point in zip(("idle", "half", "full"), made.points, strict=True):
        scatter = f"±{point.cv:.1%}"
        lines.append(f"{name:<6}{point.utilisation:>8.1%}{point.watts:>10.2f} W{scatter:>10}")
    lines.append(
        f"\nno load {made.idle_watts:.2f} W, all {made.cores} CPUs {made.curve.watts(1.0):.2f} W, "
        f"bend {made.exponent:.2f}"
    )
    lines.append(
        f"{made.boundary}, within a factor of {made.factor:.2f} in 95 % of cases; "
        f"measured with {made.meter}"
    )
    return "\n".join(lines)


def check_writable(target: Path) -> None:
    """Refuse before the minutes are spent, not after; raises ConfigError."""
    from setsuden.schemas.errors import ConfigError  # noqa: PLC0415

    place = target.absolute().parent
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise ConfigError(f"{existing} cannot be written", remedy="name a file with --out")


def write(made: Calibration, target: Path) -> None:
    """Put the file there whole, or leave what was there; raises ConfigError."""
    from setsuden.schemas.errors import ConfigError  # noqa: PLC0415

    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(made.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(
            f"{target} cannot be written: {error.strerror}", remedy="name a file with --out"
        ) from error
