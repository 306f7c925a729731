"""From observations to a graph's input: scale, offset, transpose, shape, element type.

Arithmetic is in floating point and the cast at its end is checked. Numpy's own would turn
``uint8 * (1 / 255)`` into zeros, wrap 300 to 44 and truncate 0.999, all without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setsuden.schemas.bundle import DType, ModelSpec, Observation

Array = NDArray[Any]

_LEAST_LEVELS = 3
"""An integer input left with fewer different values than this holds no picture any more."""


class UnfitInputError(ValueError):
    """A prepared value does not fit the element type of the model's input."""


class Preparation:
    """How one model wants its observations; the same on both tiers, in every process."""

    def __init__(self, spec: ModelSpec) -> None:
        self._dtype = np.dtype(spec.dtype.value)
        self._shape = spec.shape
        self._scale, self._offset = spec.scale, spec.offset
        self._plain = spec.scale == 1.0 and spec.offset == 0.0
        self._axes = None
        if spec.transpose is not None and list(spec.transpose) != sorted(spec.transpose):
            self._axes = (0, *(axis + 1 for axis in spec.transpose))

    def __call__(self, observations: Sequence[Array]) -> Array:
        """[items, *shape] in the model's dtype, C order; raises UnfitInputError."""
        joined = np.concatenate(observations)  # a third of the time of np.stack
        batch = joined.reshape(len(observations), *observations[0].shape)
        if self._dtype.kind == "f" and self._dtype.itemsize > 2:
            batch = self._scaled(batch.astype(self._dtype, copy=False))
        elif self._dtype.kind == "f":
            batch = self._to_half(batch)
        else:
            batch = self._to_whole_numbers(batch)
        if self._axes is not None:
            batch = np.ascontiguousarray(batch.transpose(self._axes))
        return batch.reshape(len(observations), *self._shape)

    def _scaled(self, batch: Array) -> Array:
        """In place, in the batch's own floating point."""
        if self._scale != 1.0:
            batch *= batch.dtype.type(self._scale)
        if self._offset != 0.0:
            batch += batch.dtype.type(self._offset)
        return batch

    def _to_half(self, batch: Array) -> Array:
        scaled = self._scaled(batch.astype(np.float32, copy=False))
        largest = float(np.abs(scaled).max(initial=0.0))
        limit = float(np.finfo(np.float16).max)
        if largest > limit:
            raise UnfitInputError(f"a prepared value of {largest:g} does not fit float16")
        return scaled.astype(np.float16)

    def _to_whole_numbers(self, batch: Array) -> Array:
        if batch.dtype.kind == "f" or not self._plain:
            batch = np.rint(self._scaled(batch.astype(np.float64)))
        elif np.can_cast(batch.dtype, self._dtype):
            return batch.astype(self._dtype)
        low, high = _limits(self._dtype)
        # As Python's numbers: it alone compares a float with the largest int64 exactly.
        least, most = batch.min(initial=0).item(), batch.max(initial=0).item()
        if not (low <= least and most <= high):
            raise UnfitInputError(
                f"prepared values from {least} to {most} do not fit {self._dtype.name}"
            )
        return batch.astype(self._dtype)


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def problem(spec: ModelSpec, observation: Observation) -> tuple[str, str] | None:
    """(What cannot be meant in this preparation, remedy); None when nothing is wrong with it."""
    return _shape_problem(spec, observation) or _number_problem(spec, observation)


def _shape_problem(spec: ModelSpec, observation: Observation) -> tuple[str, str] | None:
    """A reshape that neither merges nor splits axes tears neighbours apart.

    It is almost always a transposition that was forgotten: [128, 3] reshaped to [3, 128] is noise.
    """
    if spec.transpose is not None or _refines(observation.shape, spec.shape):
        return None
    own, wanted = list(observation.shape), list(spec.shape)
    axes = _transposition(observation.shape, spec.shape)
    hint = f"transpose = {axes}" if axes else "transpose = [axes in the graph's order]"
    what = f"shape {wanted} is no regrouping of the observation's {own}"
    plain = list(range(len(own)))
    return (
        f"{what}: reshaping would mix values of different axes",
        f"set {hint}; transpose = {plain} if a plain reshape is meant",
    )


def _refines(one: Sequence[int], other: Sequence[int]) -> bool:
    """True when one shape only merges or splits axes of the other."""
    cuts, more = ({prod(shape[: i + 1]) for i in range(len(shape))} for shape in (one, other))
    return cuts <= more | {1} or more <= cuts | {1}


def _transposition(own: Sequence[int], wanted: Sequence[int]) -> list[int] | None:
    """Axes of ``own`` in the order of ``wanted``, where both hold the same sizes."""
    left, axes = list(range(len(own))), []
    for size in (size for size in wanted if size > 1):
        axis = next((axis for axis in left if own[axis] == size), None)
        if axis is None:
            return None
        left.remove(axis)
        axes.append(axis)
    return axes + left if all(own[axis] == 1 for axis in left) else None


def _number_problem(spec: ModelSpec, observation: Observation) -> tuple[str, str] | None:
    if spec.scale == 0.0:
        return "scale = 0 makes all observations equal", "leave scale out, or set the right factor"
    whole = np.dtype(spec.dtype.value).kind != "f"
    source = np.dtype(observation.dtype.value)
    if not whole or source.kind == "f":
        return None
    low, high = _limits(source)
    least, most = sorted((low * spec.scale + spec.offset, high * spec.scale + spec.offset))
    smallest, largest = _limits(np.dtype(spec.dtype.value))
    remedy = "choose the dtype, scale and offset that the graph was exported with"
    became = f"{observation.dtype} times {spec.scale:g} plus {spec.offset:g}"
    if high - low + 1 >= _LEAST_LEVELS > round(most) - round(least) + 1:
        return f"{became} leaves {spec.dtype} no more than two different values", remedy
    # All values of a byte occur; of a wider type perhaps those of a 12-bit sensor.
    narrow = observation.dtype in {DType.BOOL, DType.UINT8, DType.INT8}
    nothing_fits = most < smallest or least > largest
    if nothing_fits or (narrow and (least < smallest or most > largest)):
        return f"{became} runs from {least:g} to {most:g}, which {spec.dtype} cannot hold", remedy
    return None
