"""The contract's models: energy sums, results, refusals, streams."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from setsuden.schemas import errors
from setsuden.schemas.bundle import GateSpec, OperatingPoint
from setsuden.schemas.energy import (
    WORST_FIRST,
    Boundary,
    EnergyReading,
    Method,
    Quality,
    Source,
    total,
)
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import FINAL_STATUSES, Answer, Result, Status
from setsuden.schemas.streams import StreamBounds, all_streams

JOULES = st.floats(0, 1e9, allow_nan=False)


@st.composite
def readings(draw: st.DrawFn, *, known: bool = False) -> EnergyReading:
    cpu = draw(JOULES)
    sources = [source for source in Source if source is not Source.NONE or not known]
    source = draw(st.sampled_from(sources))
    if source is Source.NONE:
        return EnergyReading(cpu_seconds=cpu)
    low, mid, high = sorted(draw(st.tuples(JOULES, JOULES, JOULES)))
    return EnergyReading(
        joules=mid,
        joules_low=low,
        joules_high=high,
        cpu_seconds=cpu,
        source=source,
        boundary=draw(st.none() | st.sampled_from(Boundary)),
        method=draw(st.none() | st.sampled_from(Method)),
        quality=draw(st.sampled_from(Quality)),
    )


# -- energy -------------------------------------------------------------------------------------


@given(st.lists(readings(known=True), min_size=1, max_size=30))
def test_a_total_is_ordered_and_never_below_a_part(parts: list[EnergyReading]) -> None:
    whole = total(parts)
    assert whole.joules_low is not None
    assert whole.joules is not None
    assert whole.joules_high is not None
    assert whole.joules_low <= whole.joules <= whole.joules_high
    assert whole.joules >= max(part.joules or 0.0 for part in parts)
    assert whole.cpu_seconds >= max(part.cpu_seconds for part in parts)


@given(st.lists(readings(), max_size=20), st.randoms())
def test_a_total_does_not_depend_on_the_order(parts: list[EnergyReading], random: object) -> None:
    turned = list(parts)
    random.shuffle(turned)  # type: ignore[attr-defined]  # hypothesis hands out a Random
    assert total(turned) == total(parts)


@given(st.lists(readings(), min_size=1, max_size=20))
def test_a_total_is_labelled_by_its_worst_part(parts: list[EnergyReading]) -> None:
    whole = total(parts)
    assert whole.source == min((part.source for part in parts), key=WORST_FIRST.index)
    assert (whole.joules is None) == any(part.source is Source.NONE for part in parts)
    if whole.joules is not None:
        assert whole.quality == max((p.quality for p in parts), key=list(Quality).index)
        same = len({part.boundary for part in parts}) == 1
        assert whole.boundary == (parts[0].boundary if same else None)


@given(readings(known=True))
def test_the_total_of_one_is_its_joules(part: EnergyReading) -> None:
    whole = total([part])
    assert (whole.joules, whole.joules_low, whole.joules_high, whole.cpu_seconds) == (
        part.joules,
        part.joules_low,
        part.joules_high,
        part.cpu_seconds,
    )


def test_the_total_of_nothing_is_unknown_not_zero() -> None:
    assert total([]) == EnergyReading(cpu_seconds=0.0)
    assert total([]).joules is None


@pytest.mark.parametrize(
    "fields",
    [
        {"joules": 1.0, "joules_low": 1.0, "joules_high": 1.0},
        {"source": Source.MEASURED},
        {"source": Source.MEASURED, "joules": 1.0},
        {"source": Source.MEASURED, "joules": 1.0, "joules_low": 2.0, "joules_high": 3.0},
        {"source": Source.MEASURED, "joules": -1.0, "joules_low": -1.0, "joules_high": 1.0},
        {"source": Source.MEASURED, "joules": float("inf"), "joules_low": 0.0, "joules_high": 1.0},
    ],
)
def test_a_figure_without_its_label_or_order_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EnergyReading(cpu_seconds=0.0, **fields)  # type: ignore[arg-type]  # wrong on purpose


@given(readings())
def test_a_reading_is_read_back_from_json(reading: EnergyReading) -> None:
    assert EnergyReading.model_validate_json(reading.model_dump_json(exclude_none=True)) == reading


# -- results ------------------------------------------------------------------------------------


@given(st.sampled_from(Status), readings(), st.text(max_size=20), st.floats(0, 1))
def test_a_result_is_read_back_from_json(
    status: Status, reading: EnergyReading, label: str, confidence: float
) -> None:
    result = Result(
        event_id="d-00000000-1",
        pipeline="p",
        device="d",
        status=status,
        answer=Answer(label=label, index=0, confidence=confidence),
        energy={"edge": reading},  # type: ignore[arg-type]  # pydantic makes it
        trace_id="ab" * 16,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert Result.model_validate_json(result.model_dump_json(exclude_none=True)) == result
    assert result.is_final == (status in FINAL_STATUSES)


def test_a_newer_senders_keys_are_ignored() -> None:
    body = (
        '{"event_id":"e","pipeline":"p","device":"d","status":"final","trace_id":"t",'
        '"at":"2026-01-01T00:00:00Z","colour":"red"}'
    )
    assert Result.model_validate_json(body).status is Status.FINAL


# -- refusals -----------------------------------------------------------------------------------

REFUSABLE = [
    errors.RejectedError,
    errors.InvalidEventError,
    errors.InvalidTensorError,
    errors.PayloadTooLargeError,
    errors.UnknownPipelineError,
    errors.UnsupportedContentTypeError,
    errors.RequestRefusedError,
]


@pytest.mark.parametrize("kind", REFUSABLE)
def test_a_refusal_comes_back_as_the_error_it_was(kind: type[errors.RejectedError]) -> None:
    told = Refusal.of(kind("why", field="part", remedy="do"), source_id="7", trace_id="ab" * 16)
    read = Refusal.model_validate_json(told.model_dump_json()).exception()
    assert type(read) is kind
    assert isinstance(read, errors.RejectedError)
    assert (read.message, read.field, read.remedy) == ("why", "part", "do")
    assert read.trace_id == "ab" * 16


def test_a_full_outbox_keeps_its_bytes() -> None:
    told = Refusal.of(errors.OutboxFullError(used_bytes=3, quota_bytes=4))
    read = Refusal.model_validate_json(told.model_dump_json()).exception()
    assert isinstance(read, errors.OutboxFullError)
    assert (read.used_bytes, read.quota_bytes) == (3, 4)


def test_a_foreign_exception_tells_its_name_and_nothing_else() -> None:
    told = Refusal.of(ValueError("a path on this machine"))
    assert "path" not in told.model_dump_json()
    assert isinstance(told.exception(), errors.RejectedError)


def test_every_refusal_of_the_tree_can_be_told() -> None:
    """A new subclass that nobody added to the table would come back as its base."""
    known = {*REFUSABLE, errors.OutboxFullError}
    assert set(errors.RejectedError.__subclasses__()) | {errors.RejectedError} == known


def test_every_error_has_a_code_of_its_own() -> None:
    def tree(kind: type[errors.SetsudenError]) -> list[type[errors.SetsudenError]]:
        ours = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
        return [kind, *(found for sub in ours for found in tree(sub))]

    codes = [kind.code for kind in tree(errors.SetsudenError)]
    assert len(set(codes)) == len(codes)


# -- bundles and streams ------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1), st.floats(0, 1))
def test_a_share_is_looked_up_at_the_nearest_fitted_point(
    points: list[tuple[float, float]], share: float
) -> None:
    fitted = tuple(OperatingPoint(escalated=e, threshold=t) for e, t in points)
    found = GateSpec(threshold=0.5, points=fitted).threshold_for(share)
    if 0 < share < 1:
        nearest = min(abs(point.escalated - share) for point in fitted)
        assert found in {p.threshold for p in fitted if abs(p.escalated - share) == nearest}
    else:
        assert found == share


def test_without_fitted_points_a_share_cannot_be_looked_up() -> None:
    with pytest.raises(ValueError, match=r"gate\.points"):
        GateSpec(threshold=0.5).threshold_for(0.2)


def test_no_stream_drops_what_it_holds_to_make_room() -> None:
    found = all_streams(StreamBounds())
    assert len(found) <= 10
    assert all(stream["discard"] == "new" and stream["storage"] == "file" for stream in found)
    assert all(isinstance(stream["max_bytes"], int) and stream["max_bytes"] > 0 for stream in found)
