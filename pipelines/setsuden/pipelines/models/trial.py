"""Trial of a model before it is used: real preparation, one item and a full batch.

Random input of a fixed seed finds what a look at the graph cannot: weights that are not numbers,
scores declared as something else, a batch axis that is none, a preparation that erases the
picture. It runs wherever ``run`` runs: in this process, or in one with limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from random import Random
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines import codec, gate
from setsuden.pipelines.bundle import Bundle
from setsuden.schemas.bundle import Manifest, ModelSpec, Observation, OutputKind

from . import preparation
from .failure import FailureKind, RunFailedError, TrialError
from .native import first_line, ran_out_of_memory
from .preparation import Preparation

Array = NDArray[Any]

_SEED = 20_260_823
_DISTINCT = 8
"""Different observations in a trial's batch; they repeat to fill it."""
_QUICK_SECONDS = 0.05
"""A quicker model is tried on more, and twice: a first run also makes onnxruntime take memory."""
_LARGEST_DIFFERENCE = 0.2
"""Of items' probabilities, alone and in a batch, on average. Quantised models differ a little."""
_UNDOUBTED_DIFFERENCE = 0.05
"""Less is rounding, however little the items' own answers differ."""

_NUMBERS = (
    "name an output of plain numbers: cast it to float32 in the graph;"
    " from scikit-learn, convert with options={'zipmap': False}"
)
_NO_NUMPY_TYPE = "No corresponding Numpy type"
"""onnxruntime, of bfloat16 and the like."""


class TrialRun(Protocol):
    """One run, as :class:`session.Run` has it."""

    @property
    def output(self) -> Array: ...  # noqa: D102  # the field of that name
    @property
    def cpu_seconds(self) -> float: ...  # noqa: D102  # the field of that name
    @property
    def wall_seconds(self) -> float: ...  # noqa: D102  # the field of that name


Run = Callable[[Array], TrialRun]


class TrialReport(NamedTuple):
    """What a trial measured."""

    seconds_alone: float
    """Of a run with one item: CPU of one thread, wall time of several."""
    seconds_in_batch: float
    """Of a run with ``max_batch`` items."""
    max_batch: int
    """The declared one, or fewer so that a run keeps well within its limit."""


class _Inputs(NamedTuple):
    """One kind of observations to try."""

    observations: Sequence[Array]
    recorded: bool = False
    varied: bool = True


def check(
    bundle: Bundle, model: str, run: Run, *, run_seconds: float = 3600.0, invent: bool = True
) -> TrialReport:
    """Try the named model; raises TrialError with what is wrong and what to do.

    A recorded ``sample`` must work. Invented input must work in one of several kinds: a model of
    token numbers rightly raises on random bytes. Without ``invent`` the sample has to do.
    """
    manifest, spec = bundle.manifest, bundle.spec(model)
    wrong = preparation.problem(spec, manifest.observation)
    if wrong is not None:
        raise TrialError(FailureKind.UNUSABLE, f"{spec.file}: {wrong[0]}", remedy=wrong[1])
    trial = _Trial(manifest, spec, run, run_seconds)
    report: TrialReport | None = None
    sample = bundle.sample()
    if sample is not None:
        recorded = codec.raw_array(sample, manifest.observation)
        report = trial.of(_Inputs([recorded], recorded=True))
        if not invent:
            return report
    refusal: TrialError | None = None
    for inputs in _invented(manifest.observation):
        try:
            tried = trial.of(inputs)
        except TrialError as error:
            if error.kind not in {FailureKind.RAISED, FailureKind.NOT_FINITE}:
                raise
            refusal = error
        else:
            return tried
    if report is None and refusal is not None:
        raise refusal
    assert report is not None  # noqa: S101  # there is a sample, or invented input was refused
    return report


def shape_run(spec: ModelSpec, classes: int, run: Run) -> None:
    """One run on zeros that checks input dtype, input shape and output shape.

    Raises TrialError.
    """
    output = _run(spec, run, np.zeros((1, *spec.shape), dtype=spec.dtype.value)).output
    _check_shape(spec, output, 1, classes)


def _invented(observation: Observation) -> Iterator[_Inputs]:
    dtype, shape = np.dtype(observation.dtype.value), (_DISTINCT, *observation.shape)
    if dtype.kind == "f":
        yield _Inputs(list((4 * _uniform(shape) - 2).astype(dtype)))
        yield _Inputs(list(_uniform(shape).astype(dtype)))
    elif dtype.kind == "b":
        yield _Inputs(list(_uniform(shape) < 0.5))
    else:
        # Wider whole numbers are lengths, indices or tokens more often than all there are.
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if dtype.itemsize <= 2 else (0, 255)
        yield _Inputs(list((_uniform(shape) * (high - low + 1) + low).astype(dtype)))
        yield _Inputs(list((_uniform(shape) < 0.5).astype(dtype)))
    yield _Inputs([np.zeros(observation.shape, dtype)], varied=False)


def _uniform(shape: tuple[int, ...]) -> Array:
    """From 0 up to 1, the same each time. Not numpy's own: its import takes 15 ms of a start."""
    content = Random(_SEED).randbytes(4 * prod(shape))  # noqa: S311  # no secret
    return np.frombuffer(content, "<u4").reshape(shape) / 2**32


class _Trial:
    """One model under trial."""

    def __init__(self, manifest: Manifest, spec: ModelSpec, run: Run, run_seconds: float) -> None:
        self._manifest, self._spec, self._run_once = manifest, spec, run
        self._run_seconds = run_seconds
        self._prepare = Preparation(spec)
        self._classes = len(manifest.classes)

    def of(self, inputs: _Inputs) -> TrialReport:
        """Each item alone that a batch begins with, then the batch; raises TrialError."""
        spec, observations = self._spec, inputs.observations
        alone = [self._run([observations[0]])]
        more = _DISTINCT if alone[0].wall_seconds < _QUICK_SECONDS else 2
        alone += [self._run([one]) for one in observations[1:more]]
        seconds = min(_seconds(spec, run) for run in alone)
        items = _items(spec, max(run.wall_seconds for run in alone), self._run_seconds)
        whole = [observations[place % len(observations)] for place in range(items)]
        batch = self._run(whole)
        if batch.wall_seconds < _QUICK_SECONDS:
            batch = self._run(whole)
        singles = np.concatenate([run.output for run in alone])
        self._check_numbers(np.concatenate([singles, batch.output]), inputs)
        self._check_batch(observations, singles, batch.output)
        if inputs.recorded:
            self._check_label(singles[0])
        if inputs.varied and len(observations) > 1:
            self._check_variety(observations)
        return TrialReport(seconds, _seconds(spec, batch), items)

    def _run(self, observations: Sequence[Array]) -> TrialRun:
        try:
            batch = self._prepare(observations)
        except ValueError as error:
            raise TrialError(
                FailureKind.RAISED,
                f"{self._spec.file}: {error}",
                remedy="correct dtype, scale and offset in the manifest",
            ) from error
        ran = _run(self._spec, self._run_once, batch)
        _check_shape(self._spec, ran.output, len(observations), self._classes)
        return ran

    def _check_numbers(self, output: Array, inputs: _Inputs) -> None:
        file = self._spec.file
        finite = output[np.isfinite(output).all(axis=1)]
        if not len(finite) or (inputs.recorded and len(finite) < len(output)):
            raise TrialError(
                FailureKind.NOT_FINITE,
                f"{file} gives NaN or infinity for every input tried",
                remedy="its weights may hold NaN: export it again, or add a recorded sample to the"
                " bundle",
            )
        found = _kind_of(finite)
        declared = self._spec.kind
        looks_alike = found is not OutputKind.PROBS or not inputs.varied
        if declared is found or (declared is OutputKind.LOGITS and looks_alike):
            return
        what = {
            OutputKind.PROBS: "are probabilities",
            OutputKind.LOG_PROBS: "are logarithms of probabilities",
            OutputKind.LOGITS: "do not sum to 1",
        }[found]
        raise TrialError(
            FailureKind.UNUSABLE,
            f"{file} is declared to give {declared}, but its scores {what}",
            remedy=f'set kind = "{found}"',
        )

    def _check_batch(self, observations: Sequence[Array], alone: Array, batch: Array) -> None:
        """An item's answer may not depend on its neighbours."""
        count = min(len(alone), len(batch))
        one, other = (self._probabilities(rows[:count]) for rows in (alone, batch))
        if one is None or other is None:
            return
        difference = _difference(one, other)
        if difference <= max(_UNDOUBTED_DIFFERENCE, min(_LARGEST_DIFFERENCE, _spread(one, other))):
            return
        again = [self._run([each]).output for each in observations[:count]]
        repeated = self._probabilities(np.concatenate(again))
        if repeated is not None and _difference(one, repeated) > _UNDOUBTED_DIFFERENCE:
            return  # it answers otherwise each time it is asked: no neighbour's doing
        raise TrialError(
            FailureKind.UNUSABLE,
            f"{self._spec.file} answers otherwise in a batch of {len(batch)} than alone",
            remedy="export it with the batch axis in front, or set max_batch = 1",
        )

    def _probabilities(self, output: Array) -> Array | None:
        if not np.isfinite(output).all():
            return None
        return gate.probabilities(output, self._spec.kind)

    def _check_label(self, row: Array) -> None:
        wanted = self._manifest.observation.sample_label
        label = self._manifest.classes[int(row.argmax())]
        if wanted is not None and label != wanted:
            raise TrialError(
                FailureKind.UNUSABLE,
                f"{self._spec.file} answers {label!r} to the recorded sample, not {wanted!r}",
                remedy="check dtype, scale, offset, transpose and the order of the classes",
            )

    def _check_variety(self, observations: Sequence[Array]) -> None:
        prepared = self._prepare(observations)
        if (prepared == prepared[0]).all():
            raise TrialError(
                FailureKind.UNUSABLE,
                f"{self._spec.file}: the preparation makes all observations equal",
                remedy="correct dtype, scale and offset in the manifest",
            )


def _difference(one: Array, other: Array) -> float:
    """Of two answers to the same items: the largest of each item, on average."""
    return float(np.abs(one - other).max(axis=1).mean())


def _spread(one: Array, other: Array) -> float:
    """Half of how much the items' own answers differ, by the answers that differ less."""
    return min(_difference(rows, rows.mean(axis=0)) for rows in (one, other)) / 2


def _run(spec: ModelSpec, run: Run, batch: Array) -> TrialRun:
    try:
        return run(batch)
    except RunFailedError as error:
        raise _refused(spec, batch, error.failure.kind, error.failure.message) from error
    except Exception as error:  # onnxruntime's own tree derives from Exception alone
        memory = ran_out_of_memory(error)
        kind = FailureKind.OUT_OF_MEMORY if memory else FailureKind.RAISED
        raise _refused(spec, batch, kind, first_line(error)) from error


def _refused(spec: ModelSpec, batch: Array, kind: FailureKind, message: str) -> TrialError:
    shape = f"{spec.dtype} {list(batch.shape)}"
    alone = "correct dtype and shape in the manifest"
    remedies = {
        FailureKind.TIMED_OUT: "raise limits.run_seconds, or lower max_batch",
        FailureKind.OUT_OF_MEMORY: "raise limits.run_memory_bytes, or lower max_batch",
        FailureKind.WRONG_SHAPE: _shape_remedy(len(batch), message),
        FailureKind.CRASHED: "export it again, with another opset or without the operator at fault",
    }
    if _NO_NUMPY_TYPE in message:
        alone = _NUMBERS
    remedy = remedies.get(kind, alone if len(batch) == 1 else "set max_batch = 1")
    return TrialError(kind, f"{spec.file} does not run on {shape}: {message[:300]}", remedy=remedy)


def _check_shape(spec: ModelSpec, output: Array, items: int, classes: int) -> None:
    if output.shape == (items, classes) and output.dtype.kind in "fiu":
        return
    raise TrialError(
        FailureKind.WRONG_SHAPE,
        f"{spec.file} gives {output.dtype} {list(output.shape)} for "
        f"{'one item' if items == 1 else f'{items} items'}, not numbers of [{items}, {classes}]",
        remedy=_shape_remedy(items, f"{output.dtype}"),
    )


def _shape_remedy(items: int, found: str) -> str:
    if any(word in found for word in ("object", "bool", "<U")):
        return _NUMBERS
    if items == 1:
        return "the bundle's classes must be as many as the model's scores"
    return "export it with a batch axis in front, or set max_batch = 1"


def _items(spec: ModelSpec, seconds_alone: float, run_seconds: float) -> int:
    """As many as run in half the limit, as far as one item can tell."""
    within = int(run_seconds / 2 / seconds_alone) if seconds_alone > 0 else spec.max_batch
    return max(1, min(spec.max_batch, within))


def _seconds(spec: ModelSpec, ran: TrialRun) -> float:
    return ran.cpu_seconds if spec.threads == 1 else ran.wall_seconds


def _kind_of(finite: Array) -> OutputKind:
    """What rows of scores look like."""
    if gate.is_distribution(finite, OutputKind.PROBS).all():
        return OutputKind.PROBS
    if gate.is_distribution(finite, OutputKind.LOG_PROBS).all():
        return OutputKind.LOG_PROBS
    return OutputKind.LOGITS
