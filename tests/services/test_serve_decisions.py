"""What the Serve side decides without Ray: replicas for a lag, packages, deploy documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema
from tests.support import cloud, ml, processes

from setsuden.link import JetStream, Link
from setsuden.pipelines import bundle
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.stream_service import Lag, LagRequest
from setsuden.services.config import CloudConfig
from setsuden.services.serve import app
from setsuden.services.serve.autoscale import desired, lag_of
from setsuden.services.serve.package import pack, unpack
from setsuden.testing.broker import LocalBroker


def _lag(pending: int, in_hand: int, oldest_seconds: float) -> Lag:
    return Lag(pending=pending, in_hand=in_hand, oldest_seconds=oldest_seconds)


@pytest.mark.parametrize(
    ("lag", "replicas", "wanted"),
    [
        (_lag(0, 0, 0.0), 3, 0),
        (_lag(1, 0, 0.0), 0, 1),
        (_lag(90, 10, 0.0), 1, 1),
        (_lag(191, 10, 0.0), 1, 3),
        (_lag(5, 0, 11.0), 2, 3),
        (_lag(0, 5, 11.0), 2, 1),
    ],
)
def test_replicas_follow_the_lag_and_an_old_event_adds_one(
    lag: Lag, replicas: int, wanted: int
) -> None:
    assert desired(lag, replicas, target_lag=100, target_age_seconds=10.0) == wanted


async def test_the_lag_is_read_from_the_consumer(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    request = LagRequest(region="local", pipeline=cloud.PIPELINE)
    assert await lag_of(broker.options, request) == _lag(0, 0, 0.0)
    async with cloud.bench(tmp_path, broker) as bench:
        worker = await bench.start()
        await cloud.until(lambda: worker.ready)
    await cloud.escalate(link, range(7))
    lag = await lag_of(broker.options, request)
    assert (lag.pending, lag.in_hand) == (7, 0)
    assert 0 < lag.oldest_seconds < 60


def test_a_package_carries_manifest_and_teacher_alone(tmp_path: Path) -> None:
    folder = ml.write_bundle(tmp_path / "a", student=True)
    package = pack(folder, "teacher", 1 << 20)
    (tmp_path / "b").mkdir()
    unpacked = unpack(package, tmp_path / "b")
    assert sorted(path.name for path in unpacked.iterdir()) == ["bundle.toml", "teacher.onnx"]
    assert bundle.load(unpacked).read("teacher") == bundle.load(folder).read("teacher")


def test_a_package_over_the_limit_is_a_path(tmp_path: Path) -> None:
    folder = ml.write_bundle(tmp_path / "a")
    package = pack(folder, "teacher", 10)
    assert package.files == {}
    assert unpack(package, tmp_path) == folder


def test_the_deploy_document_is_what_serve_takes(tmp_path: Path) -> None:
    config = CloudConfig(pipelines=(PipelineSpec(name="tiny", bundle="bundle"),))
    read = ServeDeploySchema.model_validate(app.document(config, tmp_path / "cloud.toml"))
    assert [found.name for found in read.applications] == ["setsuden-tiny"]


def test_the_builder_makes_an_application_from_a_file(tmp_path: Path, broker: LocalBroker) -> None:
    path = processes.write_config(tmp_path, broker)
    built = app.build({"config": str(path), "pipeline": "tiny"})
    assert built._bound_deployment.name == "teacher-tiny"
