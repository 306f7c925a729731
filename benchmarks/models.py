"""What a bundle's models cost here: threads, spinning, batches, and int8 against full precision.

Blocks of all ways to run a model take turns, there and back: what slows the machine for a while
slows each of them, and ratios are taken turn by turn. Paced runs are billed for the pauses between
them too, as that is where threads spin; what pausing itself takes is measured in the same turns and
taken off. A block gives medians: a neighbour's burst makes a few of its runs dear.

One JSON line for each way and each comparison.
``python benchmarks/models.py [BUNDLE] [--model MODEL] [--against FILE:MODEL] [--rate 20]``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit

from setsuden.energy.host.system import Clock
from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.bundle import Bundle
from setsuden.pipelines.models.session import Array, opened
from setsuden.schemas.bundle import ModelSpec, Observation
from setsuden.schemas.result import ModelRef

TURNS = 5
DECLARED, ONE_THREAD, DEFAULT, BATCH = "declared", "one_thread", "default", "batch"
OWN_CHOICE = 0
"""Threads as onnxruntime chooses them by itself."""
MAX_ITEMS = 32
"""Of a batch that is measured."""
BACK_TO_BACK_PART = 1 / 6
"""Of the time of paced runs: it holds many more runs."""
PAUSE_SECONDS = 0.3
"""Of each turn at most, for the pauses alone: they scatter little."""
QUIET_NS, QUIET_SECONDS, QUIET_TRIES = 1_000_000, 0.01, 100
"""Below a millisecond of CPU in ten of time no thread spins any more; give up after a second."""
CHUNK_NS = 25_000_000
"""Runs whose CPU time is read together: the kernel books that of a thread that is still running at
its ticks, up to 10 ms apart, so a single run of a spinning pool shows next to nothing."""
INT8 = (b"DequantizeLinear", b"MatMulInteger", b"ConvInteger", b"QLinearMatMul", b"QLinearConv")
"""Operators whose names stand in the file of a quantised model as they are."""


class Way(NamedTuple):
    """How a model is run."""

    name: str
    threads: int
    spinning: bool = False
    items: int = 1


class Subject(NamedTuple):
    """A model that was read."""

    name: str
    spec: ModelSpec
    ref: ModelRef
    content: bytes

    @property
    def quantised(self) -> bool:
        """True when the file names an operator of quantised models."""
        return any(name in self.content for name in INT8)


class Loaded(NamedTuple):
    """A model, loaded for one way of running it."""

    name: str
    way: Way
    run: Callable[[], object]


class Turn(NamedTuple):
    """One block of runs."""

    runs: int
    cpu_ms: float
    """Of the process, for each inference: what its threads do between runs is in it."""
    wall_ms: float
    """Of one inference; both are medians."""


class Measured(NamedTuple):
    """One way of running a model, turn by turn."""

    name: str
    way: Way
    paced: list[Turn]
    """Empty for batches: they come from a queue."""
    back_to_back: list[Turn]


class Mark(NamedTuple):
    """A look at the clocks after so many runs."""

    at_ns: int
    cpu_ns: int
    runs: int


@dataclass(frozen=True, slots=True)
class Bench:
    """Runs blocks between looks at two clocks."""

    rate: float
    """Paced runs a second."""
    seconds: float
    """Paced runs of each way, over all turns."""
    clock: Clock
    cpu_ns: Callable[[], int] = time.process_time_ns
    """Of the whole process: a pool's threads are in no other clock."""

    def measure(self, loaded: Sequence[Loaded]) -> list[Measured]:
        """Each way's turns, in the order given."""
        measured = [Measured(one.name, one.way, [], []) for one in loaded]
        part = self.seconds / TURNS
        for turn in range(TURNS):
            pause_ms = self.block(lambda: None, min(part, PAUSE_SECONDS), paced=True).cpu_ms
            both = list(zip(loaded, measured, strict=True))
            for one, figures in both if turn % 2 == 0 else reversed(both):
                if one.way.items == 1:
                    paced = self.block(one.run, part, paced=True)
                    own_ms = max(0.0, paced.cpu_ms - pause_ms)
                    figures.paced.append(paced._replace(cpu_ms=own_ms))
                    self._quiet()
                dense = self.block(one.run, part * BACK_TO_BACK_PART, paced=False)
                figures.back_to_back.append(dense)
                self._quiet()
        return measured

    def block(self, run: Callable[[], object], seconds: float, *, paced: bool) -> Turn:
        """Runs for so long, at least one; each is billed for the pause behind it too."""
        now = self.clock.monotonic_ns
        interval = round(1e9 / self.rate) if paced else 0
        walls: list[int] = []
        due = now()
        end = due + round(seconds * 1e9)
        marks = [Mark(due, self.cpu_ns(), 0)]
        while not walls or due < end:
            began = now()
            run()
            walls.append(now() - began)
            due = max(due + interval, now())
            if paced:
                self.clock.sleep((due - now()) / 1e9)
            if now() - marks[-1].at_ns >= CHUNK_NS or due >= end:
                marks.append(Mark(now(), self.cpu_ns(), len(walls)))
        pieces = [(two.cpu_ns - one.cpu_ns) / (two.runs - one.runs) for one, two in pairwise(marks)]
        return Turn(len(walls), median(pieces) / 1e6, median(walls) / 1e6)

    def _quiet(self) -> None:
        """Wait until no thread of the block before spins."""
        for _ in range(QUIET_TRIES):
            before = self.cpu_ns()
            self.clock.sleep(QUIET_SECONDS)
            if self.cpu_ns() - before < QUIET_NS:
                return


def subjects(
    bundle: Bundle, models: Sequence[str], against: Sequence[tuple[Path, str]]
) -> list[Subject]:
    """The bundle's models, and other files with the names, shapes and threads of one of them."""
    wanted = [*models, *(model for _, model in against)] if models else bundle.manifest.models
    read = []
    for name in dict.fromkeys(wanted):
        content, ref = bundle.read(name)
        read.append(Subject(name, bundle.spec(name), ref, content))
    for path, model in against:
        content = path.read_bytes()
        spec = bundle.spec(model).model_copy(update={"file": path.name, "sha256": None})
        _, own = bundle.read(model)
        ref = own.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})
        read.append(Subject(str(path), spec, ref, content))
    return read


def grouped(
    models: Sequence[Subject], against: Sequence[tuple[Path, str]]
) -> list[tuple[Subject, ...]]:
    """Models that are compared with each other, the one in full precision first.

    In a bundle ``name-int8`` is compared with ``name`` when their inputs are alike.
    """
    base = {str(path): model for path, model in against}
    base |= {one.name: two.name for one in models for two in models if _twins(one, two)}
    groups: defaultdict[str, list[Subject]] = defaultdict(list)
    for one in sorted(models, key=lambda model: model.name in base):
        groups[base.get(one.name, one.name)].append(one)
    return [tuple(group) for group in groups.values()]


def _twins(one: Subject, two: Subject) -> bool:
    return (
        one.name.startswith(f"{two.name}-")
        and one.quantised != two.quantised
        and (one.spec.dtype, one.spec.shape) == (two.spec.dtype, two.spec.shape)
    )


def ways(spec: ModelSpec) -> Iterator[Way]:
    """How a model is run: as declared, with one thread, as onnxruntime would, in batches."""
    yield Way(DECLARED, spec.threads)
    if spec.threads > 1:
        yield Way(ONE_THREAD, 1)
    yield Way(DEFAULT, OWN_CHOICE, spinning=True)
    if spec.max_batch > 1:
        yield Way(BATCH, spec.threads, items=min(spec.max_batch, MAX_ITEMS))


def inputs(observation: Observation, items: int) -> list[Array]:
    """The same observations each time: zeros would let some kernels off lightly."""
    dtype = np.dtype(observation.dtype.value)
    drawn = np.random.default_rng(0).random((items, *observation.shape))
    if dtype.kind == "b":
        return list(drawn > 0.5)
    top = min(np.iinfo(dtype).max, 255) if dtype.kind in "iu" else 1
    return list((drawn * top).astype(dtype))


def load(bundle: Bundle, one: Subject, way: Way) -> Loaded:
    """A session of its own for this way of running the model."""
    spec = one.spec.model_copy(update={"threads": way.threads})
    classes = len(bundle.manifest.classes)
    session = opened(one.content, spec, one.ref, classes, spinning=way.spinning)
    batch = session.prepare(inputs(bundle.manifest.observation, way.items))
    return Loaded(one.name, way, lambda: session.run(batch))


def ratios(of: Sequence[Turn], by: Sequence[Turn]) -> list[float]:
    """CPU of an inference of one over the other, turn by turn."""
    pairs = zip(of, by, strict=False)  # batches have no paced turns
    return [one.cpu_ms / two.cpu_ms for one, two in pairs if two.cpu_ms > 0]


def report(measured: Sequence[Measured], group: Sequence[Subject]) -> None:
    """A line for each way, beside the way that is declared; one for each other precision."""
    declared = {one.name: one for one in measured if one.way.name == DECLARED}
    for one in measured:
        own = declared[one.name]
        emit("model_way", model=one.name, **one.way._asdict(),
             paced=summary(one.paced), back_to_back=summary(one.back_to_back),
             paced_cpu_of_declared=middle(ratios(one.paced, own.paced)),
             item_cpu_of_declared=middle(
                 [ratio / one.way.items for ratio in ratios(one.back_to_back, own.back_to_back)]
             ))  # fmt: skip
    first = declared[group[0].name]
    for other in group[1:]:
        against = declared[other.name]
        emit("model_precision", model=first.name, against=other.name, int8=other.quantised,
             paced_cpu_ratio=middle(ratios(against.paced, first.paced)),
             back_to_back_cpu_ratio=middle(ratios(against.back_to_back, first.back_to_back)),
             ratios=[round(ratio, 4) for ratio in ratios(against.paced, first.paced)])  # fmt: skip


def middle(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return median(values) if values else None


def summary(turns: Sequence[Turn]) -> dict[str, object] | None:
    """Medians over the turns, and what they are medians of."""
    if not turns:
        return None
    by_turn = [round(turn.cpu_ms, 6) for turn in turns]
    wall_ms = round(median(turn.wall_ms for turn in turns), 6)
    runs = sum(turn.runs for turn in turns)
    return {"runs": runs, "cpu_ms": median(by_turn), "wall_ms": wall_ms, "cpu_ms_by_turn": by_turn}


def file_and_model(text: str) -> tuple[Path, str]:
    """``FILE:MODEL``."""
    file, _, model = text.rpartition(":")
    if not file or not model:
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE:MODEL")
    return Path(file), model


def main(arguments: Sequence[str] | None = None) -> None:
    """All groups of models, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="default: the built-in digits")
    parser.add_argument("--model", action="append", default=[], help="only these models")
    parser.add_argument("--against", action="append", default=[], type=file_and_model,
                        metavar="FILE:MODEL", help="another precision of this model")  # fmt: skip
    parser.add_argument("--rate", type=float, default=20.0, help="paced runs a second")
    parser.add_argument("--seconds", type=float, default=3.0, help="paced runs of each way")
    args = parser.parse_args(arguments)
    with as_file(files("setsuden.pipelines.workloads") / "digits") as digits:
        bundle = bundles.load(args.bundle or digits)
        bench = Bench(args.rate, args.seconds, Clock())
        for group in grouped(subjects(bundle, args.model, args.against), args.against):
            loaded = [load(bundle, one, way) for one in group for way in ways(one.spec)]
            report(bench.measure(loaded), group)


if __name__ == "__main__":
    main()
