"""A broken student never answers: every way it fails escalates, with a reason of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support import ml
from tests.support.meters import WATTS, meter

from setsuden.edge_agent.process import MODEL_TIER, START_SECONDS
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.pipelines.pipeline import Pipeline
from setsuden.pipelines.registry import Opener
from setsuden.schemas.decision import Reason
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.pipeline import GateOverride, PipelineSpec
from setsuden.schemas.result import Tier

_loaded: list[tuple[Pipeline, Watchdog]] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Threads and processes of students go with their test."""
    yield
    while _loaded:
        one, watchdog = _loaded.pop()
        one.close()
        watchdog.close()


def loaded(folder: Path, **gate: float) -> Pipeline:
    spec = PipelineSpec(name="p", bundle=str(folder), gate=GateOverride(**gate))
    watchdog = Watchdog()
    opener = Opener(
        Tier.EDGE, MODEL_TIER, lambda _: folder, meter=meter(folder.parent), watchdog=watchdog
    )
    (one,) = opener.open([spec], START_SECONDS)
    _loaded.append((one, watchdog))
    return one


def observation(first: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([first, 0, 0, 0], np.float32)


def with_student(folder: Path, content: bytes) -> Path:
    """A bundle whose student is this model."""
    ml.write_bundle(folder, student=True)
    (folder / "student.onnx").write_bytes(content)
    return folder


async def test_a_student_that_raises_on_one_event_spoils_only_that_one(tmp_path: Path) -> None:
    folder = with_student(tmp_path / "b", ml.linear(ml.WEIGHTS * 9, poisoned=True))
    run = await loaded(folder).judge([observation(), observation(ml.POISON), observation()])
    reasons = [judged.decision.reason for judged in run.judged]
    assert reasons == [Reason.CONFIDENT, Reason.STUDENT_RAISED, Reason.CONFIDENT]
    assert run.judged[1].answer is None
    assert run.judged[1].decision.escalates


@pytest.mark.parametrize("broken", [np.nan, np.inf])
async def test_a_student_that_gives_no_number_escalates(tmp_path: Path, broken: float) -> None:
    folder = with_student(tmp_path / "b", ml.linear(np.full_like(ml.WEIGHTS, broken)))
    (judged,) = (await loaded(folder).judge([observation()])).judged
    assert judged.decision.reason is Reason.STUDENT_NOT_FINITE
    assert judged.decision.escalates


async def test_a_bundle_without_a_student_escalates_everything(tmp_path: Path) -> None:
    folder = ml.write_bundle(tmp_path / "b")
    run = await loaded(folder).judge([observation(), observation()])
    assert {judged.decision.reason for judged in run.judged} == {Reason.NO_STUDENT}
    assert run.energy is None


async def test_the_energy_of_a_batch_is_shared_equally(tmp_path: Path) -> None:
    folder = with_student(tmp_path / "b", ml.linear(ml.WEIGHTS))
    run = await loaded(folder).judge([observation()] * 8)
    assert run.energy is not None
    assert run.energy.cpu_seconds > 0
    assert run.energy.joules is not None
    assert run.energy.joules >= run.energy.cpu_seconds * WATTS


def test_an_operating_point_that_was_never_fitted_is_refused(tmp_path: Path) -> None:
    folder = ml.write_bundle(tmp_path / "b", student=True)
    with pytest.raises(ConfigError, match=r"\[\[gate.points\]\]"):
        loaded(folder, escalate=0.2)
