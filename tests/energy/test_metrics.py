"""Energy as metrics: every name from one table, the same story to Prometheus and over OTLP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import fsum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from prometheus_client.parser import text_string_to_metric_families
from tests.support.cloud import until
from tests.support.meters import meter as real_meter

from setsuden.edge_agent.metrics import Gauges, Metrics, exposition
from setsuden.energy import Meter, WorkKey
from setsuden.energy.metering.instruments import Instrument, MetricPoint, instruments, points_of
from setsuden.energy.metering.totals import Summed, Totals
from setsuden.link import Incoming, JetStream, Link
from setsuden.link.tasks import end
from setsuden.schemas import metrics as names
from setsuden.schemas import subjects
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.result import Tier
from setsuden.schemas.windows import (
    Access,
    Component,
    DomainRow,
    MeterRow,
    WindowRow,
    WorkRow,
)
from setsuden.telemetry import metrics_protobuf, protobuf
from setsuden.telemetry.metrics_ship import MetricsShipper
from setsuden.testing.broker import LocalBroker

START_NS, NOW_NS = 1_700_000_000 * 10**9, 1_700_003_600 * 10**9
INFRA = Path(__file__).parents[2] / "infra"
RESOURCE: dict[str, str | bool | int | float] = {"service.name": "edge-agent", "device.id": "d-1"}
DEVICE = subjects.TelemetrySource(Tier.EDGE, "dev-1")
GAUGES = Gauges(
    link_up=True,
    link_connections=1,
    link_handler_errors=0,
    link_unreadable=0,
    pending_events={},
    pending_bytes={},
    quota_bytes=1,
    waiting_to_send=0,
    spans_recorded=0,
    spans_lost=0,
    telemetry_failures=0,
    spool_bytes=0,
    outbox_set_aside=0,
    outbox_unwritable=False,
    deadlines_unverified=0,
    broker_refuses=False,
    pipelines_unserved=0,
)


HW_TYPES = {"dram": "memory", "gpu": "gpu"}


def domain(
    name: str, boundary: Boundary, parent: str | None = None, *, primary: bool = True
) -> DomainRow:
    return DomainRow(
        id=name,
        name=f"{name}-name",
        hw_type=next((kind for part, kind in HW_TYPES.items() if part in name), "cpu"),
        kind="counter",
        source=Source.MEASURED,
        boundary=boundary,
        factor=1.1,
        parent=parent,
        primary=primary,
    )


RAPL = (
    domain("intel-rapl:0", Boundary.CPU_PACKAGE),
    domain("intel-rapl:0:0", Boundary.CPU_CORE, "intel-rapl:0", primary=False),
    domain("dram", Boundary.CPU_PACKAGE),
)


def meter_row(
    domains: tuple[DomainRow, ...] = RAPL,
    *,
    component: Component = Component.EDGE,
    source: Source = Source.MEASURED,
    boundary: Boundary | None = Boundary.CPU_PACKAGE,
) -> MeterRow:
    return MeterRow(
        meter="edge-1",
        component=component,
        name="d-1",
        host_id="host",
        site="fr-par-2",
        access=Access.LAN,
        cores=4,
        reserved_share=1.0,
        reserved_why="test",
        sensor="rapl",
        origin="test",
        domains=domains,
        source=source,
        boundary=boundary,
        factor=1.1,
        idle_factor=1.05,
        idle_origin="test",
        window_seconds=1.0,
        software="setsuden test",
        config_sha256="0" * 64,
        started_ns=START_NS,
    )


def work(model: str, cpu: float, idle: float, items: float = 1.0) -> WorkRow:
    return WorkRow(
        pipeline="digits",
        model=model,
        digest="0" * 64,
        method=Method.THREAD,
        runs=1.0,
        items=items,
        cpu_seconds=cpu,
        idle_seconds=idle,
    )


def window(buckets: tuple[float, ...] | None, *works: WorkRow, cpu: float = 0.5) -> WindowRow:
    dynamic, idle, overhead, unused, other = buckets or (None,) * 5
    return WindowRow(
        meter="edge-1",
        start_ns=START_NS,
        seconds=1.0,
        joules=None if buckets is None else fsum(buckets),
        idle_watts=None if buckets is None else 2.0,
        quality=Quality.OK,
        busy_cpu_seconds=1.0,
        steal_cpu_seconds=0.0,
        process_cpu_seconds=cpu,
        work=works,
        request_dynamic=dynamic,
        request_idle=idle,
        overhead=overhead,
        idle_unused=unused,
        other=other,
    )


def summed(*windows: WindowRow) -> Summed:
    totals = Totals()
    for row in windows:
        totals.add(row)
    return totals.summed()


TWO = summed(
    window((4.0, 1.0, 0.5, 0.25, 2.0), work("b/student", 0.3, 0.4), work("b/other", 0.1, 0.6)),
    window(None, work("b/student", 0.2, 0.1, items=2.0)),
)
JOULES = {"intel-rapl:0": 7.75, "intel-rapl:0:0": 3.0, "dram": 1.5}


def found(made: list[Instrument]) -> dict[str, dict[frozenset[str], float]]:
    """Values by metric and by the values of their attributes."""
    return {
        row.name: {frozenset(point.attributes.values()): point.value for point in points}
        for row, points in made
    }


def value(made: list[Instrument], name: str, *attributes: str) -> float:
    (one,) = [v for key, v in found(made)[name].items() if key >= set(attributes)]
    return one


# -- from totals to points -----------------------------------------------------------------------


def test_every_joule_of_the_windows_is_in_one_point_and_the_unknown_window_is_reported() -> None:
    made = points_of(meter_row(), TWO, JOULES, 3)
    energy = found(made)["setsuden.inference.energy"]
    rest = found(made)["setsuden.energy.unattributed"]
    assert fsum([*energy.values(), *rest.values()]) == pytest.approx(7.75, rel=1e-12)
    assert value(made, "setsuden.inference.energy", "b/student", "dynamic") == pytest.approx(3.0)
    assert value(made, "setsuden.inference.energy", "overhead") == 0.5
    assert value(made, "setsuden.inference.count", "b/student") == 3.0
    assert value(made, "setsuden.inference.cpu.time", "b/student") == pytest.approx(0.5)
    assert value(made, "process.cpu.time") == 1.0
    assert value(made, "setsuden.energy.windows", "true") == 1
    assert value(made, "setsuden.energy.windows", "false") == 1
    assert value(made, "setsuden.energy.rows.dropped") == 3


SHARES = st.floats(0, 1e6)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.tuples(SHARES, SHARES, SHARES, SHARES, SHARES),
        ),
        max_size=20,
    ),
    st.floats(1e-6, 1.0),
)
def test_points_sum_to_what_the_windows_had(
    buckets: list[tuple[float, ...] | None], cpu: float
) -> None:
    rows = [window(one, work("b/a", cpu, cpu), work("b/b", 1.0, 0.5)) for one in buckets]
    made = points_of(meter_row(), summed(*rows), {}, 0)
    told = [
        point.value
        for row, points in made
        if row in {names.INFERENCE_ENERGY, names.UNATTRIBUTED}
        for point in points
    ]
    assert fsum(told) == pytest.approx(fsum(row.joules or 0.0 for row in rows), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("component", list(Component))
@pytest.mark.parametrize("boundary", [None, *Boundary])
def test_nothing_is_outside_the_table(component: Component, boundary: Boundary | None) -> None:
    domains = tuple(domain(one.value, one) for one in Boundary)
    row = meter_row(domains, component=component, boundary=boundary)
    for metric, points in points_of(row, TWO, {one.id: 1.0 for one in domains}, 0):
        assert metric in names.METRICS
        for point in points:
            assert set(point.attributes) <= set(metric.attributes)
            assert all(point.attributes.values())


def test_the_table_names_each_metric_once_and_every_attribute() -> None:
    assert len({row.name for row in names.METRICS}) == len(names.METRICS)
    used = {key for row in names.METRICS for key in row.attributes}
    assert used == set(names.ATTRIBUTES)
    own = [row for row in names.METRICS if not row.name.startswith(("hw.", "process."))]
    assert all(row.name.startswith("setsuden.") for row in own)


def test_a_meter_without_a_source_has_no_joules_and_not_zero() -> None:
    row = meter_row((), source=Source.NONE, boundary=None)
    made = points_of(row, summed(window(None, work("b/student", 0.2, 0.1))), {}, 0)
    told = {metric.name for metric, _ in made}
    assert not any(metric.unit == "J" for metric, _ in made)
    assert {"setsuden.inference.count", "setsuden.inference.cpu.time"} <= told


def test_a_domain_that_was_never_read_is_left_out() -> None:
    made = points_of(meter_row(), TWO, {"intel-rapl:0": 7.75}, 0)
    assert len(found(made)["hw.energy"]) == 1


def test_parents_and_children_are_distinguished() -> None:
    (points,) = [p for row, p in points_of(meter_row(), TWO, JOULES, 0) if row is names.HW_ENERGY]
    by = {point.attributes["hw.id"]: point for point in points}
    assert {name: point.value for name, point in by.items()} == JOULES
    assert by["intel-rapl:0:0"].attributes["hw.parent"] == "intel-rapl:0"
    assert "hw.parent" not in by["intel-rapl:0"].attributes
    assert by["dram"].attributes["hw.type"] == "memory"
    assert by["intel-rapl:0"].attributes["hw.type"] == "cpu"


@pytest.mark.parametrize("boundary", [Boundary.WALL_AC, Boundary.HOST, Boundary.BOARD_DC])
def test_a_whole_host_is_hw_host_energy_and_only_that(boundary: Boundary) -> None:
    domains = (domain("in", boundary), domain("gpu-rail", Boundary.MODULE, "in", primary=False))
    made = points_of(meter_row(domains), TWO, {"in": 9.0, "gpu-rail": 4.0}, 0)
    assert set(found(made)["hw.host.energy"].values()) == {9.0}
    assert set(found(made)["hw.energy"].values()) == {4.0}
    (point,) = next(points for row, points in made if row is names.HW_ENERGY)
    assert (point.attributes["hw.type"], point.attributes["hw.parent"]) == ("gpu", "in")


def test_a_brokers_messages_are_no_inferences() -> None:
    rows = summed(window((4.0, 0.0, 0.5, 0.25, 2.0), work("nats-server", 0.3, 0.0, items=900.0)))
    made = points_of(meter_row(component=Component.BROKER), rows, {}, 0)
    assert "setsuden.inference.count" not in found(made)
    assert value(made, "setsuden.inference.energy", "broker", "dynamic") == 4.0


# -- Prometheus ----------------------------------------------------------------------------------


def families(made: list[Instrument]) -> dict[str, dict[str, float]]:
    """Family by name; its samples by their labels, as Prometheus' own parser reads them."""
    text = exposition(Metrics(), GAUGES, made).decode()
    return {
        f"{family.name}:{family.type}": {
            json.dumps([sample.name, sample.labels], sort_keys=True): sample.value
            for sample in family.samples
        }
        for family in text_string_to_metric_families(text)
    }


def test_names_for_prometheus_follow_the_rules_of_opentelemetry() -> None:
    assert {row.name: row.prometheus for row in names.METRICS} == {
        "setsuden.inference.energy": "setsuden_inference_energy_joules_total",
        "setsuden.inference.count": "setsuden_inference_count_total",
        "setsuden.inference.cpu.time": "setsuden_inference_cpu_time_seconds_total",
        "setsuden.energy.unattributed": "setsuden_energy_unattributed_joules_total",
        "setsuden.energy.windows": "setsuden_energy_windows_total",
        "setsuden.energy.rows.dropped": "setsuden_energy_rows_dropped_total",
        "hw.energy": "hw_energy_joules_total",
        "hw.host.energy": "hw_host_energy_joules_total",
        "process.cpu.time": "process_cpu_time_seconds_total",
    }


def test_prometheus_reads_every_point() -> None:
    made = points_of(meter_row(), TWO, JOULES, 0)
    read = families(made)
    for row, points in made:
        samples = read[f"{row.prometheus.removesuffix('_total')}:counter"]
        wanted = {
            json.dumps([row.prometheus, _labels(point.attributes)], sort_keys=True): point.value
            for point in points
        }
        assert samples == wanted


def _labels(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key.replace(".", "_"): value for key, value in attributes.items()}


@given(st.text(min_size=1))
def test_any_name_of_a_device_survives_the_text_format(name: str) -> None:
    made = [Instrument(names.HW_ENERGY, (MetricPoint({"hw.name": name}, 1.0),))]
    text = exposition(Metrics(), GAUGES, made).decode("utf-8", "surrogatepass")
    lines = [line for line in text.split("\n") if line.startswith("hw_energy_joules_total{")]
    assert len(lines) == 1


# -- OTLP ----------------------------------------------------------------------------------------


def test_what_is_encoded_is_read_back_by_the_official_types() -> None:
    made = points_of(meter_row(), TWO, JOULES, 2)
    data = metrics_protobuf.encode(RESOURCE, made, START_NS, NOW_NS)
    request = ExportMetricsServiceRequest.FromString(data)
    (group,) = request.resource_metrics
    assert {p.key: p.value.string_value for p in group.resource.attributes} == RESOURCE
    metrics = group.scope_metrics[0].metrics
    assert [metric.name for metric in metrics] == [row.name for row, _ in made]
    for metric, (row, points) in zip(metrics, made, strict=True):
        assert metric.unit == row.unit
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == metrics_protobuf.CUMULATIVE
        read = [
            MetricPoint({p.key: p.value.string_value for p in one.attributes}, one.as_double)
            for one in metric.sum.data_points
        ]
        assert read == [MetricPoint(dict(point.attributes), point.value) for point in points]
        times = {(p.start_time_unix_nano, p.time_unix_nano) for p in metric.sum.data_points}
        assert times == {(START_NS, NOW_NS)}
    assert metrics_protobuf.parse(data) == MetricsData.FromString(data)


@pytest.mark.parametrize("value", [True, 7, 1.5, "x"])
def test_a_resource_keeps_the_kind_of_its_values(value: bool | float | str) -> None:
    data = metrics_protobuf.encode({"a": value}, [], START_NS, NOW_NS)
    (pair,) = MetricsData.FromString(data).resource_metrics[0].resource.attributes
    read = getattr(pair.value, pair.value.WhichOneof("value") or "")
    assert (type(read), read) == (type(value), value)


def test_a_clock_that_was_set_back_makes_no_time_before_the_start() -> None:
    made = points_of(meter_row(), TWO, {}, 0)
    data = metrics_protobuf.encode({}, made, START_NS, START_NS - 10**9)
    point = MetricsData.FromString(data).resource_metrics[0].scope_metrics[0].metrics[0].sum
    assert point.data_points[0].time_unix_nano == START_NS


def test_a_line_is_otlp_json() -> None:
    made = points_of(meter_row(), TWO, JOULES, 0)
    line = metrics_protobuf.line(metrics_protobuf.encode(RESOURCE, made, START_NS, NOW_NS))
    assert line.endswith("\n")
    assert line.count("\n") == 1
    (group,) = json.loads(line)["resourceMetrics"]
    metric = group["scopeMetrics"][0]["metrics"][0]
    point = metric["sum"]["dataPoints"][0]
    assert metric["name"] == "setsuden.inference.energy"
    assert metric["sum"]["aggregationTemporality"] == 2
    assert point["timeUnixNano"] == str(NOW_NS)
    assert point["asDouble"] == pytest.approx(3.0)
    assert {"key": "setsuden.site", "value": {"stringValue": "fr-par-2"}} in point["attributes"]


@pytest.mark.parametrize("data", [b"\xff\xff", b"no protobuf"])
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(TraceDataError):
        metrics_protobuf.parse(data)


# -- over the link -------------------------------------------------------------------------------


@asynccontextmanager
async def shipping(shipper: MetricsShipper) -> AsyncIterator[None]:
    task = asyncio.create_task(shipper.run())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        await end(task)


def metered(folder: Path) -> Meter:
    """A meter of this process that settled a run."""
    made = real_meter(folder)
    run = made.begin(WorkKey("digits", "digits/student", "0" * 64))
    made.finish(run, 3, 0.01, Method.THREAD)
    made.turn(last=True)
    return made


def counts_in(message: Incoming) -> list[float]:
    data = MetricsData.FromString(protobuf.decompress(message.data))
    return [
        point.as_double
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "setsuden.inference.count"
        for point in metric.sum.data_points
    ]


async def test_a_meters_metrics_reach_the_stream_now_and_then_and_once_more_at_the_end(
    link: Link, jetstream: JetStream, tmp_path: Path
) -> None:
    seen: list[Incoming] = []
    await link.subscribe("otel.metrics.>", seen.append)
    meter = metered(tmp_path)
    shipper = MetricsShipper(link, meter, RESOURCE, DEVICE, 0.02)
    async with shipping(shipper):
        await until(lambda: shipper.shipped >= 3, pause_seconds=0.01)
    before = shipper.shipped
    meter.close()
    await shipper.finish(5.0)
    assert shipper.shipped == before + 1
    await until(lambda: len(seen) == shipper.shipped, pause_seconds=0.01)
    assert {message.subject for message in seen} == {subjects.metrics(*DEVICE)}
    assert [counts_in(message) for message in seen] == [[3.0]] * len(seen)
    assert seen[0].headers["content-encoding"] == "gzip"


async def test_while_the_link_is_down_nothing_is_kept_and_the_next_message_says_it_all(
    broker: LocalBroker, link: Link, jetstream: JetStream, tmp_path: Path
) -> None:
    other = Link(broker.options, "dev-1")
    meter = metered(tmp_path)
    shipper = MetricsShipper(other, meter, RESOURCE, DEVICE, 0.02)
    seen: list[Incoming] = []
    await link.subscribe("otel.metrics.>", seen.append)
    async with shipping(shipper):
        await shipper.finish(1.0)
        assert shipper.shipped == 0
        other.start()
        await until(lambda: shipper.shipped > 0 and bool(seen), pause_seconds=0.01)
    assert counts_in(seen[0]) == [3.0]
    await other.close()
    meter.close()


async def test_zero_seconds_send_nothing(link: Link, jetstream: JetStream, tmp_path: Path) -> None:
    meter = metered(tmp_path)
    shipper = MetricsShipper(link, meter, RESOURCE, DEVICE, 0)
    async with shipping(shipper):  # and its task goes on
        await asyncio.wait_for(shipper.finish(1.0), 5.0)
    assert shipper.shipped == 0
    meter.close()


def test_a_message_is_small(tmp_path: Path) -> None:
    """A device sends one a minute, perhaps by a mobile network."""
    meter = metered(tmp_path)
    data = metrics_protobuf.encode(RESOURCE, instruments(meter), START_NS, NOW_NS)
    assert len(protobuf.compress(data)) < 1000
    meter.close()
