"""``setsuden energy models``: what a bundle's models cost here, and what would cost less."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from setsuden.cli.energy.options import energy_config_option, energy_of
from setsuden.cli.lazy import needs, quiet_logs

if TYPE_CHECKING:
    from setsuden.insight.model_energy.findings import (
        Comparison,
        Figures,
        ModelFigures,
        ModelFinding,
        Rhythm,
    )
    from setsuden.insight.model_energy.measured import Measured, Wanted
    from setsuden.pipelines.bundle import Bundle

_WIDTH = 98
_WAYS = {
    "declared": "as declared",
    "one_thread": "one thread",
    "default": "onnxruntime's default",
    "batch": "in batches of",
}
_MARKS = {"warning": ("! ", "yellow"), "info": ("  ", None)}


class Against(click.ParamType[tuple[Path, str]]):
    """``FILE.onnx:MODEL``."""

    name = "file:model"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, str]:
        """The file, and the model that it is another precision of."""
        path, colon, model = str(value).rpartition(":")
        if not colon or not path or not model:
            self.fail(f"{value!r}: write teacher-int8.onnx:teacher", param, ctx)
        return Path(path), model


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False, exists=True))
@energy_config_option
@click.option(
    "--rate",
    default=20.0,
    show_default=True,
    type=click.FloatRange(1, 1000),
    help="Inferences a second of paced runs: how often a device has an event.",
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0.1, 300),
    help="Of paced runs, for each way of running a model.",
)
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Only these models.")
@click.option(
    "--against",
    multiple=True,
    type=Against(),
    metavar="FILE.onnx:MODEL",
    help="Another precision of MODEL, measured in turns with it on the same inputs.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def models(  # noqa: PLR0917  # click hands over each option
    bundle: Path,
    path: Path | None,
    rate: float,
    seconds: float,
    models: tuple[str, ...],
    against: tuple[tuple[Path, str], ...],
    as_json: bool,
) -> None:
    """Measure the models of folder BUNDLE here: CPU of an inference, and what would be less.

    Each model runs as declared, with one thread, as onnxruntime would by itself, and in batches;
    paced as events come, and back to back. All ways take turns in one go, and findings are ratios
    between them: other work on the machine changes the times, and hardly the ratios.
    """
    quiet_logs()
    with needs("edge"):
        from setsuden.energy.host.system import Host  # noqa: PLC0415
        from setsuden.insight.model_energy.measured import Wanted, measure  # noqa: PLC0415  # numpy
        from setsuden.pipelines import bundle as bundles  # noqa: PLC0415

    read = bundles.load(bundle)
    wanted = Wanted(rate, seconds, models, against)
    try:
        found = measure(read, wanted, energy_of(path), Host(), _progress)
    finally:
        _clear()
    if as_json:
        click.echo(json.dumps(document(read, wanted, found), indent=2))
    else:
        click.echo("\n".join(text(read, wanted, found)))


def _progress(done: int, of: int, name: str) -> None:
    """One line that rewrites itself, where a person watches."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{done * 100 // of} %  {name}", nl=False, err=True)


def _clear() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)


# -- as data --------------------------------------------------------------------------------------


def document(bundle: Bundle, wanted: Wanted, found: Measured) -> dict[str, object]:
    """Everything as JSON tells it."""
    from setsuden.insight.model_energy.rig import TURNS  # noqa: PLC0415

    return {
        "bundle": bundle.manifest.name,
        "version": bundle.manifest.version,
        "cpus": found.cpus,
        "rate": wanted.rate,
        "seconds": wanted.seconds,
        "turns": TURNS,
        "power": None if found.power is None else found.power._asdict(),
        "models": [_model(model) for model in found.models],
        "comparisons": [_compared(compared) for compared in found.comparisons],
        "findings": [finding._asdict() for finding in found.findings],
    }


def _model(model: ModelFigures) -> dict[str, object]:
    return {
        "model": model.name,
        "file": model.file,
        "threads": model.threads,
        "quantised": model.quantised,
        "ways": [_way(figures) for figures in model.ways],
    }


def _way(figures: Figures) -> dict[str, object]:
    energy = figures.energy
    return {
        **figures.way._asdict(),
        "paced": None if figures.paced is None else _rhythm(figures.paced),
        "back_to_back": _rhythm(figures.back_to_back),
        "energy_above_idle": None if energy is None else energy.model_dump(mode="json"),
    }


def _rhythm(rhythm: Rhythm) -> dict[str, object]:
    return {
        "cpu_ms": rhythm.cpu_ms,
        "wall_ms": rhythm.wall_ms,
        "runs": rhythm.runs,
        "cpu_ms_by_turn": [turn.cpu_ms for turn in rhythm.turns],
    }


def _compared(compared: Comparison) -> dict[str, object]:
    return {
        "model": compared.model.name,
        "against": compared.against.name,
        "cpu_ratio": compared.paced,
        "back_to_back_cpu_ratio": compared.back_to_back,
    }


# -- for a person ---------------------------------------------------------------------------------


def text(bundle: Bundle, wanted: Wanted, found: Measured) -> Iterator[str]:
    """The table, the comparisons, the findings."""
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    yield f"{name} on {found.cpus} CPUs; {_power(found)}"
    yield f"paced: {wanted.rate:g} inferences a second; dense: back to back, for each item"
    yield ""
    yield _line("model", "way", "threads", "paced CPU", "latency", "energy", "dense CPU")
    for model in found.models:
        for place, figures in enumerate(model.ways):
            yield _row(Path(model.name).name if place == 0 else "", figures)
    for compared in found.comparisons:
        yield ""
        yield from textwrap.wrap(_words(compared, wanted.rate), _WIDTH)
    for finding in found.findings:
        yield ""
        yield from _finding(finding)


def _power(found: Measured) -> str:
    if found.power is None:
        return "no joules: no model of this machine"
    power = found.power
    return f"energy above idle: {power.source}, {power.boundary}, x/÷{power.factor:.3g}"


def _row(name: str, figures: Figures) -> str:
    from setsuden.insight.traces.units import clean, energy  # noqa: PLC0415

    way, paced = figures.way, figures.paced
    label = _WAYS[way.name] + (f" {way.items}" if way.items > 1 else "")
    joules = None if figures.energy is None else figures.energy.joules
    return _line(
        clean(name, 20),
        label,
        str(way.threads or "auto"),
        "-" if paced is None else _ms(paced.cpu_ms),
        "-" if paced is None else _ms(paced.wall_ms),
        energy(joules),
        _ms(figures.back_to_back.cpu_ms / way.items),
    )


def _line(name: str, way: str, threads: str, *columns: str) -> str:
    told = "".join(f"{column:>11}" for column in columns)
    return f"{name:<21}{way:<22}{threads:>7}{told}".rstrip()


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms"


def _words(compared: Comparison, rate: float) -> str:
    paced, dense = compared.paced, compared.back_to_back
    told = [
        f"{ratio:.3g} times the CPU {where}"
        for ratio, where in ((paced, f"at {rate:g} a second"), (dense, "back to back"))
        if ratio is not None
    ]
    return f"{compared.against.name} against {compared.model.name}: {', '.join(told) or 'unknown'}"


def _finding(finding: ModelFinding) -> Iterator[str]:
    mark, colour = _MARKS[finding.severity]
    lines = textwrap.wrap(finding.words, _WIDTH - len(mark), break_on_hyphens=False)
    yield click.style(mark, fg=colour) + lines[0]
    yield from (" " * len(mark) + line for line in lines[1:])
    yield from textwrap.wrap(
        finding.advice,
        _WIDTH,
        initial_indent=" " * 4,
        subsequent_indent=" " * 4,
        break_on_hyphens=False,
    )
