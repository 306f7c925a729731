"""The recorder: nothing is lost between a finished span and the spool, or it is counted."""

from __future__ import annotations

import asyncio
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import pytest

from setsuden.telemetry import Offset, Recorder, Span, SpanKind, Timeline, TraceOptions
from setsuden.telemetry import protobuf as encoding
from setsuden.telemetry.recorder import SEGMENT_PACKED_BYTES
from setsuden.telemetry.resource import architecture, resource
from setsuden.telemetry.spool import CLOCK_DONE, Segment

BOOT = "0123abcd"
START = 10**18


def span(number: int = 1, **attributes: object) -> Span:
    made: dict[str, str | bool | int | float] = attributes  # type: ignore[assignment]  # the point
    return Span(
        f"{number:032x}", f"{number:016x}", None, "event", SpanKind.SERVER, START, START, made
    )


def recorder(folder: Path, timeline: Timeline | None = None, **options: object) -> Recorder:
    made = TraceOptions.model_validate(options)
    return Recorder(made, folder, "edge-agent", {"device.id": "d"}, timeline)


def timeline(offset: Callable[[], Offset | None]) -> Timeline:
    return Timeline(BOOT, offset, asyncio.Event())


def sealed(running: Recorder) -> list[tuple[Segment, list[Span]]]:
    """Every segment of the spool with its spans."""
    found = []
    while (segment := running.spool.oldest()) is not None:
        data = running.spool.read(segment)
        assert data is not None
        (group,) = encoding.decode(encoding.decompress(data))
        assert group.resource["device.id"] == "d"
        assert group.resource["service.name"] == "edge-agent"
        found.append((segment, group.spans))
        running.spool.remove(segment)
    return found


def names(running: Recorder) -> list[int]:
    return sorted(int(one.span_id, 16) for _, spans in sealed(running) for one in spans)


# -- nothing is lost -----------------------------------------------------------------------------


def test_a_burst_from_several_threads_loses_no_span(tmp_path: Path) -> None:
    running = recorder(tmp_path)
    start = threading.Barrier(5)

    def burst(first: int) -> None:
        start.wait()
        for number in range(first, first + 3_000, 3):
            running.add([span(number), span(number + 1), span(number + 2)], keep=number % 2 == 0)

    threads = [threading.Thread(target=burst, args=(1 + 3_000 * index,)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.close()
    assert (running.recorded, running.lost) == (15_000, 0)
    assert names(running) == list(range(1, 15_001))


def test_past_the_queue_new_spans_are_dropped_and_counted(tmp_path: Path) -> None:
    running = recorder(tmp_path, queue_max_spans=100, segment_seconds=3600)
    for number in range(1, 251):
        running.add([span(number)])
    assert running.spool.dropped == {"queue": 150}
    running.close()
    assert names(running) == list(range(1, 101))
    assert (running.recorded, running.lost) == (100, 150)


def test_once_the_queue_was_sealed_there_is_room_again(tmp_path: Path) -> None:
    running = recorder(tmp_path, queue_max_spans=100, segment_seconds=0.01)
    told = threading.Event()
    running.on_sealed = told.set
    for first in (1, 101, 201):
        told.clear()
        running.add([span(number) for number in range(first, first + 100)])
        assert told.wait(20)
    running.close()
    assert (running.recorded, running.lost) == (300, 0)


def test_an_event_larger_than_the_queue_is_dropped_whole(tmp_path: Path) -> None:
    running = recorder(tmp_path, queue_max_spans=100)
    running.add([span(number) for number in range(1, 102)])
    running.close()
    assert running.spool.dropped == {"queue": 101}
    assert len(running.spool) == 0


def test_closing_seals_what_is_waiting(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=3600)
    running.add([span(1), span(2)])
    assert len(running.spool) == 0
    running.close()
    assert names(running) == [1, 2]
    running.close()  # twice does no harm


def test_a_segments_worth_is_sealed_without_waiting(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=3600)
    told = threading.Event()
    running.on_sealed = told.set
    running.add([span(number) for number in range(1, 513)])
    assert told.wait(20)
    assert running.recorded == 512
    running.close()


@pytest.mark.parametrize("random", [False, True])
def test_a_segment_is_no_larger_than_the_bridge_takes(tmp_path: Path, random: bool) -> None:
    """In bytes as they travel, where they are random, and unpacked, where they are not."""
    running = recorder(tmp_path, segment_seconds=3600)
    for number in range(1, 513):
        text = os.urandom(1000).hex() if random else "x" * 4000
        running.add([span(number, text=text)])
    running.close()
    segments = sealed(running)
    assert len(segments) > 2
    assert sorted(int(one.span_id, 16) for _, spans in segments for one in spans) == [
        *range(1, 513)
    ]
    assert all(segment.size_bytes <= SEGMENT_PACKED_BYTES for segment, _ in segments)
    assert (running.recorded, running.lost) == (512, 0)


def test_a_span_that_is_too_large_alone_is_sealed_alone(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=3600)
    running.add([span(1), span(2, text=os.urandom(300_000).hex()), span(3)])
    running.close()
    large = [spans for segment, spans in sealed(running) if segment.size_bytes > 100_000]
    assert [len(spans) for spans in large] == [1]


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("aarch64", "arm64"),
        ("arm64", "arm64"),
        ("armv7l", "arm32"),
        ("x86_64", "amd64"),
        ("AMD64", "amd64"),
        ("i686", "x86"),
        ("ppc64le", "ppc64"),
        ("s390x", "s390x"),
        ("riscv64", "riscv64"),
    ],
)
def test_an_architecture_has_opentelemetrys_name(machine: str, name: str) -> None:
    assert architecture(machine) == name


def test_a_resource_names_this_machines_architecture_so() -> None:
    assert resource("worker", TraceOptions())["host.arch"] == architecture(platform.machine())


def test_kept_and_plain_spans_lie_in_segments_of_their_own(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=3600)
    for number in range(1, 101):
        running.add([span(number)], keep=number % 3 == 0)
    running.close()
    found = {
        segment.keep: [int(one.span_id, 16) for one in spans] for segment, spans in sealed(running)
    }
    assert found[True] == list(range(3, 101, 3))
    assert found[False] == [number for number in range(1, 101) if number % 3]


def test_the_next_life_finds_the_segments_and_the_counters(tmp_path: Path) -> None:
    first = recorder(tmp_path, queue_max_spans=100)
    first.add([span(1)])
    first.add([span(number) for number in range(200)])
    first.close()
    second = recorder(tmp_path)
    second.add([span(2)])
    second.close()
    assert second.lost == 200
    assert names(second) == [1, 2]


# -- clocks --------------------------------------------------------------------------------------


def test_without_a_timeline_spans_are_on_the_clouds_clock(tmp_path: Path) -> None:
    running = recorder(tmp_path)
    running.add([span()])
    running.close()
    ((segment, (found,)),) = sealed(running)
    assert segment.clock == CLOCK_DONE
    assert (found.start_ns, found.attributes) == (START, {})


def test_without_an_offset_segments_are_named_by_their_boot(tmp_path: Path) -> None:
    running = recorder(tmp_path, timeline(lambda: None))
    running.add([span()])
    running.close()
    ((segment, (found,)),) = sealed(running)
    assert segment.clock == BOOT
    assert (found.start_ns, found.attributes) == (START, {})


@pytest.mark.parametrize(
    ("offset", "moved"), [(Offset(400, 3), 400), (Offset(-400, 3), -400), (Offset(3, 400), 0)]
)
def test_with_an_offset_segments_are_done(tmp_path: Path, offset: Offset, moved: int) -> None:
    running = recorder(tmp_path, timeline(lambda: offset))
    running.add([span()])
    running.close()
    ((segment, (found,)),) = sealed(running)
    assert segment.clock == CLOCK_DONE
    assert found.start_ns == START + moved
    assert found.attributes["setsuden.clock.corrected"] is bool(moved)


# -- what cannot be sealed -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, b"x", 2**70, "\ud800"])
def test_a_span_that_cannot_be_encoded_is_counted_and_ends_nothing(
    tmp_path: Path, value: object
) -> None:
    running = recorder(tmp_path, segment_seconds=0.01)
    running.add([span(1, wrong=value)])
    running.add([span(2)], keep=False)
    running.close()
    assert running.spool.dropped == {"unencoded": 1}
    assert names(running) == [2]


def test_after_a_span_that_could_not_be_encoded_tracing_goes_on(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=0.01)
    told: Queue[int] = Queue()
    running.on_sealed = lambda: told.put(running.recorded)
    running.add([span(1, wrong=None)])
    assert told.get(timeout=20) == 0
    running.add([span(2)])
    assert told.get(timeout=20) == 1
    running.close()


# -- spans that wait for their joules -----------------------------------------------------------


def later(number: int, joules: dict[int, float]) -> Span:
    """A span whose joules are known once they stand in ``joules``."""

    def settled() -> dict[str, str | bool | int | float] | None:
        return {"joules": joules[number]} if number in joules else None

    return span(number, joules=0.5)._replace(later=settled)


def test_a_span_is_sealed_once_its_joules_are_settled(tmp_path: Path) -> None:
    joules: dict[int, float] = {}
    running = recorder(tmp_path, segment_seconds=0.02)
    told: Queue[None] = Queue()
    running.on_sealed = lambda: told.put(None)
    running.add([later(1, joules)])
    running.add([span(2)])
    told.get(timeout=10)
    assert names(running) == [2]
    joules[1] = 7.0
    told.get(timeout=10)
    ((_, (found,)),) = sealed(running)
    assert found.attributes == {"joules": 7.0}
    running.close()


def test_closing_seals_what_has_not_settled_with_what_is_known(tmp_path: Path) -> None:
    running = recorder(tmp_path)
    running.add([later(1, {}), span(2)])
    running.add([later(3, {3: 4.0})])
    running.close()
    found = {one.span_id: one.attributes for _, spans in sealed(running) for one in spans}
    assert [found[f"{number:016x}"] for number in (1, 2, 3)] == [
        {"joules": 0.5},
        {},
        {"joules": 4.0},
    ]
    assert running.lost == 0


def test_a_span_waits_no_longer_than_it_is_told_to(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=0.02, settle_seconds=0)
    told: Queue[None] = Queue()
    running.on_sealed = lambda: told.put(None)
    running.add([later(1, {})])
    told.get(timeout=10)
    assert names(running) == [1]
    running.close()


def test_past_half_of_the_bound_the_oldest_are_sealed_as_they_are(tmp_path: Path) -> None:
    """They leave room for new ones: provisional joules are better than no span."""
    running = recorder(tmp_path, queue_max_spans=2000, segment_seconds=0.02)
    told: Queue[None] = Queue()
    running.on_sealed = lambda: told.put(None)
    running.add([later(number, {}) for number in range(1, 1001)])
    running.add([later(number, {}) for number in range(1001, 1501)])
    told.get(timeout=10)
    assert 1 <= running.recorded <= 1000
    assert min(names(running)) == 1
    running.close()
    assert (running.recorded, running.lost) == (1500, 0)


def test_a_spool_that_takes_nothing_ends_nothing(tmp_path: Path) -> None:
    running = recorder(tmp_path, segment_seconds=0.01)
    told = threading.Event()
    running.on_sealed = told.set
    folder = running.spool.folder
    folder.rename(tmp_path / "away")
    folder.write_text("a file now", encoding="utf-8")
    running.add([span(1)])
    assert told.wait(20)
    assert running.spool.dropped == {"unwritten": 1}
    folder.unlink()
    folder.mkdir()
    running.add([span(2)])
    running.close()
    assert names(running) == [2]


def test_an_idle_recorder_takes_no_time(tmp_path: Path) -> None:
    idle, busy = recorder(tmp_path / "a", segment_seconds=0.001), recorder(tmp_path / "b")
    told: Queue[None] = Queue()
    idle.on_sealed = lambda: told.put(None)
    idle.add([span(1)])
    told.get(timeout=20)
    assert idle._thread.ident is not None
    used = time.pthread_getcpuclockid(idle._thread.ident)
    busy.on_sealed = lambda: told.put(None)
    before = None
    for number in range(20):
        busy.add([span(first) for first in range(number * 512, number * 512 + 512)])
        told.get(timeout=20)
        if before is None:  # it had all that time to fall asleep
            before = time.clock_gettime_ns(used)
    assert time.clock_gettime_ns(used) == before
    idle.close()
    busy.close()
