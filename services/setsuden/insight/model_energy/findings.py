"""What measured runs of a bundle's models say should be changed; pure arithmetic, no I/O.

Every claim is a ratio of two ways measured in turns in one go, and must hold in four turns of five:
the machine's clock and its neighbours change from minute to minute, a ratio hardly does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Literal, NamedTuple

from setsuden.schemas.energy import EnergyReading

DECLARED, ONE_THREAD, DEFAULT, BATCH = "declared", "one_thread", "default", "batch"
OWN_CHOICE = 0
"""Threads as onnxruntime chooses them by itself."""

SPINNING_RATIO = 1.5
"""CPU of onnxruntime's default over ours. It was 1.0 where a model uses no pool, 17 to 41 where it
does (measured)."""
THREADS_CPU_RATIO = 1.1
"""CPU of the declared threads over one. A pool's own hand-over was 1.05 to 1.15 (measured)."""
THREADS_GAIN = 1.25
"""Latency of one thread over that of the declared ones that is worth the CPU time (a judgement)."""
INT8_RATIO = 1.05
"""CPU of the quantised model over the other, above the noise of turns. Dynamic int8 on convolutions
was 3 to 14 times slower, static int8 1.1 to 4.2 times faster (measured)."""
BATCH_GAIN = 1.2
"""CPU of an item alone over that in a full batch that is worth waiting for (a judgement);
convolutions gained 1.0 to 1.5, transformers 1.0 to 1.1, small dense nets 5 to 13 (measured)."""
_UNSTEADY = 5
"""One turn in so many may say otherwise."""

Severity = Literal["info", "warning"]


class Turn(NamedTuple):
    """One block of runs."""

    runs: int
    cpu_ms: float
    """Of the process, for each inference: what its threads do between runs is in it."""
    wall_ms: float
    """Of one inference; both are medians."""


class Rhythm(NamedTuple):
    """Runs of one way in one rhythm, turn by turn."""

    turns: tuple[Turn, ...]

    @property
    def runs(self) -> int:
        """In all turns."""
        return sum(turn.runs for turn in self.turns)

    @property
    def cpu_ms(self) -> float:
        """For each inference; the median of the turns."""
        return median(turn.cpu_ms for turn in self.turns)

    @property
    def wall_ms(self) -> float:
        """Of one inference; the median of the turns."""
        return median(turn.wall_ms for turn in self.turns)


class Way(NamedTuple):
    """How a model is run."""

    name: str
    threads: int
    """0: as onnxruntime chooses."""
    spinning: bool = False
    items: int = 1


class Figures(NamedTuple):
    """One way, measured."""

    way: Way
    paced: Rhythm | None
    """None for batches: they come from a queue."""
    back_to_back: Rhythm
    energy: EnergyReading | None = None
    """Of one paced inference, above idle, by a model; None without one."""


class ModelFigures(NamedTuple):
    """One model, measured in every way."""

    name: str
    file: str
    threads: int
    """Declared."""
    quantised: bool
    ways: tuple[Figures, ...]

    def way(self, name: str) -> Figures | None:
        """The named way, None when it was not measured."""
        return next((found for found in self.ways if found.way.name == name), None)


class Comparison(NamedTuple):
    """Two precisions of one model, each as declared, on the same inputs."""

    model: ModelFigures
    against: ModelFigures

    @property
    def paced(self) -> float | None:
        """CPU of an inference of ``against`` over that of ``model``; None when there is none."""
        found = self.ratios
        return median(found) if found else None

    @property
    def back_to_back(self) -> float | None:
        """The same, back to back."""
        one, two = self.model.way(DECLARED), self.against.way(DECLARED)
        found = ratios(two and two.back_to_back, one and one.back_to_back)
        return median(found) if found else None

    @property
    def ratios(self) -> list[float]:
        """Of paced runs, turn by turn."""
        one, two = self.model.way(DECLARED), self.against.way(DECLARED)
        return ratios(two and two.paced, one and one.paced)


class ModelFinding(NamedTuple):
    """Something about a model on this machine that a person may want to act on."""

    code: str
    severity: Severity
    words: str
    advice: str
    evidence: dict[str, float | int | str]


def findings(
    models: Sequence[ModelFigures], comparisons: Sequence[Comparison], rate: float, cpus: int
) -> tuple[ModelFinding, ...]:
    """Everything that the figures show; ``rate`` is that of paced runs, ``cpus`` what is ours."""
    found = [
        *(one for model in models for one in _threads_over_cores(model, cpus)),
        *(one for model in models for one in _threads_waste_cpu(model)),
        *(one for compared in comparisons for one in _int8_slower(compared)),
        *(one for model in models for one in _spinning(model, rate)),
        *(one for model in models for one in _batch_buys_nothing(model)),
    ]
    return tuple(sorted(found, key=lambda one: one.severity != "warning"))


# -- ratios ---------------------------------------------------------------------------------------


def ratios(of: Rhythm | None, by: Rhythm | None, times: float = 1.0) -> list[float]:
    """CPU for each inference of one over the other, turn by turn; empty when one is unknown."""
    if of is None or by is None:
        return []
    pairs = zip(of.turns, by.turns, strict=False)
    return [times * one.cpu_ms / two.cpu_ms for one, two in pairs if two.cpu_ms > 0]


def at_least(found: Sequence[float], bound: float) -> bool:
    """True when four of five turns reach the bound."""
    return bool(found) and sorted(found)[len(found) // _UNSTEADY] >= bound


def below(found: Sequence[float], bound: float) -> bool:
    """True when four of five turns stay below the bound."""
    return bool(found) and sorted(found, reverse=True)[len(found) // _UNSTEADY] < bound


# -- findings -------------------------------------------------------------------------------------


def _spinning(model: ModelFigures, rate: float) -> Iterator[ModelFinding]:
    default, ours = model.way(DEFAULT), model.way(DECLARED)
    if default is None or ours is None or default.paced is None or ours.paced is None:
        return
    found = ratios(default.paced, ours.paced)
    if at_least(found, SPINNING_RATIO):
        theirs, own = default.paced.cpu_ms, ours.paced.cpu_ms
        yield ModelFinding(
            "spinning",
            "info",
            f"{model.name}: onnxruntime by itself would spin and use {theirs:.3g} ms of CPU for an "
            f"inference at {rate:g} a second; here it is {own:.3g} ms, as spinning is off",
            "nothing to do here; elsewhere set session.intra_op.allow_spinning = 0",
            {"cpu_ratio": median(found), "default_cpu_ms": theirs, "cpu_ms": own, "rate": rate},
        )


def _threads_over_cores(model: ModelFigures, cpus: int) -> Iterator[ModelFinding]:
    if model.threads > cpus:
        yield ModelFinding(
            "threads_over_cores",
            "warning",
            f"{model.name}: {model.threads} threads are declared, and {cpus} CPUs may be used",
            f"models.{model.name}.threads = {cpus} in bundle.toml, or less",
            {"threads": model.threads, "cpus": cpus},
        )


def _threads_waste_cpu(model: ModelFigures) -> Iterator[ModelFinding]:
    many, one = model.way(DECLARED), model.way(ONE_THREAD)
    if many is None or one is None or many.paced is None or one.paced is None:
        return
    found = ratios(many.paced, one.paced)
    gain = one.paced.wall_ms / many.paced.wall_ms if many.paced.wall_ms > 0 else 1.0
    if at_least(found, THREADS_CPU_RATIO) and gain < THREADS_GAIN:
        yield ModelFinding(
            "threads_waste_cpu",
            "warning",
            f"{model.name}: {model.threads} threads use {median(found):.3g} times the CPU of one, "
            f"and answer {gain:.3g} times as fast",
            f"models.{model.name}.threads = 1 in bundle.toml; its CPU time is then exact too",
            {
                "cpu_ratio": median(found),
                "latency_gain": gain,
                "cpu_ms": many.paced.cpu_ms,
                "one_thread_cpu_ms": one.paced.cpu_ms,
            },
        )


def _int8_slower(compared: Comparison) -> Iterator[ModelFinding]:
    quantised, other = compared.against, compared.model
    if other.quantised:
        compared = Comparison(quantised, other)
        quantised, other = other, quantised
    if other.quantised or not quantised.quantised:
        return
    found, dense = compared.ratios, compared.back_to_back
    if at_least(found, INT8_RATIO):
        yield ModelFinding(
            "int8_slower",
            "warning",
            f"{quantised.name} is int8, and uses {median(found):.3g} times the CPU of {other.name} "
            "for the same inputs",
            f"run {other.name} on this machine; of convolutions quantise statically (QDQ), of "
            "transformers dynamically, and measure again",
            {
                "cpu_ratio": median(found),
                "back_to_back_cpu_ratio": "unknown" if dense is None else dense,
                "int8": quantised.file,
                "other": other.file,
            },
        )


def _batch_buys_nothing(model: ModelFigures) -> Iterator[ModelFinding]:
    batch, alone = model.way(BATCH), model.way(DECLARED)
    if batch is None or alone is None:
        return
    gains = ratios(alone.back_to_back, batch.back_to_back, times=batch.way.items)
    if below(gains, BATCH_GAIN):
        yield ModelFinding(
            "batch_buys_nothing",
            "info",
            f"{model.name}: an item alone uses {median(gains):.3g} times the CPU of one among "
            f"{batch.way.items}, so waiting for a batch would buy nothing",
            f"nothing waits for a batch here; a smaller models.{model.name}.max_batch answers "
            "sooner under load",
            {"cpu_gain": median(gains), "items": batch.way.items},
        )
