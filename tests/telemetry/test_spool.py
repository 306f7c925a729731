"""The spool: bounded, killed at any moment, and every span accounted for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from setsuden.telemetry import Span, SpanKind, protobuf
from setsuden.telemetry.spool import CLOCK_DONE, Segment, Spool

BOUND = 2_000
DAY = 86_400.0
WRITER = """
import sys
from pathlib import Path
from setsuden.telemetry import Span, SpanKind, protobuf
from setsuden.telemetry.spool import Spool
spool = Spool(Path(sys.argv[1]), max_bytes=1 << 30, max_age_seconds=1e6)
for number in range(1, 1_000_000):
    span = Span(
        "ab" * 16, f"{number:016x}", None, "event", SpanKind.SERVER, 1, 2, {"pad": "x" * 900}
    )
    spool.add(protobuf.compress(protobuf.encode({}, [span])), 1, keep=True)
    print(number, flush=True)
"""


def spool_in(folder: Path, max_bytes: int = BOUND, max_age: float = DAY) -> Spool:
    return Spool(folder, max_bytes=max_bytes, max_age_seconds=max_age)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".pb.gz"))


def drained(spool: Spool) -> list[Segment]:
    """Every segment, in the order it is sent."""
    found = []
    while (segment := spool.oldest()) is not None:
        found.append(segment)
        spool.remove(segment)
    return found


class Spooled(RuleBasedStateMachine):
    """Whatever is done to a spool, it holds its bound and every span is somewhere."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.spool = spool_in(self.folder)
        self.added = self.removed = 0
        self.here: dict[int, Segment] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def _present(self) -> dict[int, Segment]:
        return dict(self.spool._segments)

    @rule(size=st.integers(1, 2_600), spans=st.integers(1, 512), keep=st.booleans())
    def add(self, size: int, spans: int, keep: bool) -> None:
        before = self._present()
        self.spool.add(bytes(size), spans, keep=keep)
        self.added += spans
        after = self._present()
        gone = [before[number] for number in before.keys() - after.keys()]
        stayed = [before[number] for number in before.keys() & after.keys()]
        if size > BOUND:
            assert after == before
        if any(segment.keep for segment in gone):
            assert keep
            assert all(segment.keep for segment in stayed)
        for kept in (False, True):
            numbers = [segment.number for segment in gone if segment.keep is kept]
            left = [segment.number for segment in stayed if segment.keep is kept]
            assert max(numbers, default=0) < min(left, default=10**12)

    @rule()
    def send(self) -> None:
        segment = self.spool.oldest()
        present = self._present()
        if segment is None:
            assert not present
            return
        assert segment == min(present.values(), key=lambda one: (not one.keep, one.number))
        assert self.spool.read(segment) == bytes(segment.size_bytes)
        self.spool.remove(segment)
        self.removed += segment.spans

    @rule()
    def give_up(self) -> None:
        if (segment := self.spool.oldest()) is not None:
            self.spool.drop(segment, "damaged")
            self.spool.drop(segment, "damaged")  # once only

    @rule(shrink=st.integers(0, 50))
    def correct(self, shrink: int) -> None:
        if (segment := self.spool.oldest()) is not None:
            data = bytes(max(1, segment.size_bytes - shrink))
            assert self.spool.replace(segment, data, CLOCK_DONE)
            assert self.spool.read(self._present()[segment.number]) == data

    @rule(spans=st.integers(1, 9))
    def count(self, spans: int) -> None:
        self.spool.count("queue", spans)
        self.added += spans

    @rule()
    def restart(self) -> None:
        before, dropped = self._present(), self.spool.dropped
        self.spool = spool_in(self.folder)
        fields = [segment._replace(sealed_at=0) for segment in before.values()]
        assert [segment._replace(sealed_at=0) for segment in self._present().values()] == fields
        assert self.spool.dropped == dropped

    @invariant()
    def bounded_and_counted(self) -> None:
        if not hasattr(self, "spool"):
            return
        on_disk = sum((self.folder / name).stat().st_size for name in files(self.folder))
        assert on_disk == self.spool.size_bytes <= BOUND
        present = self._present()
        assert files(self.folder) == sorted(segment.name for segment in present.values())
        assert len(self.spool) == len(present)
        spans = sum(segment.spans for segment in present.values())
        assert self.added == spans + self.removed + self.spool.dropped.total()


TestSpooled = Spooled.TestCase
TestSpooled.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- order and bounds ----------------------------------------------------------------------------


def test_plain_segments_are_dropped_before_kept_ones_and_the_oldest_first(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, max_bytes=400)
    for keep in (True, False, True, False):
        spool.add(bytes(100), 1, keep=keep)
    left = []
    for _ in range(4):
        spool.add(bytes(100), 1, keep=True)
        left.append([segment.number for segment in spool._segments.values()])
    assert left == [[1, 3, 4, 5], [1, 3, 5, 6], [3, 5, 6, 7], [5, 6, 7, 8]]
    assert spool.dropped == {"bytes": 4}


def test_kept_segments_are_sent_first(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for keep in (False, True, False, True):
        spool.add(b"x", 1, keep=keep)
    assert [segment.number for segment in drained(spool)] == [2, 4, 1, 3]


def test_a_segment_over_the_bound_is_counted_and_drops_nothing_else(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.add(bytes(100), 3, keep=True)
    spool.add(bytes(BOUND + 1), 7, keep=False)
    assert spool.dropped == {"bytes": 7}
    assert len(spool) == 1


def test_a_plain_segment_pushes_out_no_kept_one(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, max_bytes=100)
    spool.add(bytes(100), 3, keep=True)
    spool.add(bytes(10), 7, keep=False)
    assert [segment.keep for segment in spool._segments.values()] == [True]
    assert spool.dropped == {"bytes": 7}


def test_a_replacement_that_grows_holds_the_bound(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, max_bytes=200)
    for clock in ("done", "0123abcd"):
        spool.add(bytes(100), 1, keep=True, clock=clock)
    grown = list(spool._segments.values())[1]
    assert spool.replace(grown, bytes(150), CLOCK_DONE)
    assert (spool.size_bytes, spool.dropped) == (150, {"bytes": 1})


def test_segments_past_their_age_are_dropped_at_the_next_look(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for spans in (1, 2, 4):
        spool.add(b"x", spans, keep=True)
    old = time.time() - DAY - 10
    for name in files(tmp_path)[:2]:
        os.utime(tmp_path / name, (old, old))
    again = spool_in(tmp_path)
    assert len(again) == 3
    assert [segment.spans for segment in drained(again)] == [4]
    assert again.dropped == {"age": 3}
    assert files(tmp_path) == []


def test_a_smaller_bound_of_the_next_life_holds_from_the_next_segment(tmp_path: Path) -> None:
    first = spool_in(tmp_path)
    for _ in range(10):
        first.add(bytes(200), 1, keep=False)
    again = spool_in(tmp_path, max_bytes=500)
    again.add(bytes(200), 1, keep=True)
    assert again.size_bytes <= 500
    assert again.dropped == {"bytes": 9}


# -- restarts ------------------------------------------------------------------------------------


def test_counters_survive_a_restart(tmp_path: Path) -> None:
    first = spool_in(tmp_path)
    first.count("queue", 5)
    first.count("bytes", 2)
    second = spool_in(tmp_path)
    second.count("queue", 1)
    assert spool_in(tmp_path).dropped == {"queue": 6, "bytes": 2}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"7", b'{"a": null}', b"\xff"])
def test_damaged_counters_do_not_keep_a_spool_shut(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "counters.json").write_bytes(damage)
    spool = spool_in(tmp_path)
    spool.count("queue", 1)
    assert json.loads((tmp_path / "counters.json").read_bytes()) == {"queue": 1}


def test_what_a_killed_write_left_is_cleared_away_and_foreign_files_are_let_be(
    tmp_path: Path,
) -> None:
    first = spool_in(tmp_path)
    first.add(b"whole", 2, keep=True)
    (tmp_path / "000000000002.new").write_bytes(b"ha")
    (tmp_path / "notes.pb.gz").write_bytes(b"not ours")
    again = spool_in(tmp_path)
    assert [again.read(segment) for segment in again._segments.values()] == [b"whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000000001-keep-2-done.pb.gz",
        "notes.pb.gz",
    ]


def test_of_two_files_of_one_number_the_settled_one_counts(tmp_path: Path) -> None:
    """A kill between the new content and the removal of the old leaves both."""
    first = spool_in(tmp_path)
    first.add(b"raw", 2, keep=True, clock="0123abcd")
    (raw,) = files(tmp_path)
    past = time.time() - 5
    os.utime(tmp_path / raw, (past, past))
    (tmp_path / "000000000001-keep-2-done.pb.gz").write_bytes(b"corrected")
    again = spool_in(tmp_path)
    (segment,) = drained_without_removal(again)
    assert (again.read(segment), segment.clock) == (b"corrected", CLOCK_DONE)
    assert files(tmp_path) == [segment.name]
    assert again.size_bytes == len(b"corrected")


def drained_without_removal(spool: Spool) -> list[Segment]:
    return list(spool._segments.values())


def test_a_replacement_has_one_file_and_the_same_number(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.add(b"raw", 2, keep=False, clock="0123abcd")
    segment = spool.oldest()
    assert segment is not None
    assert spool.replace(segment, b"corrected", CLOCK_DONE)
    fresh = spool.oldest()
    assert fresh is not None
    assert spool.replace(fresh, b"the same clock", CLOCK_DONE)
    assert files(tmp_path) == [fresh.name] == ["000000000001-plain-2-done.pb.gz"]
    assert spool.read(fresh) == b"the same clock"
    assert spool.size_bytes == len(b"the same clock")


def test_what_was_dropped_meanwhile_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.add(b"raw", 2, keep=False, clock="0123abcd")
    segment = spool.oldest()
    assert segment is not None
    spool.drop(segment, "bytes")
    assert spool.read(segment) is None
    assert not spool.replace(segment, b"corrected", CLOCK_DONE)
    spool.remove(segment)
    assert files(tmp_path) == []
    assert (len(spool), spool.size_bytes, spool.dropped) == (0, 0, {"bytes": 2})


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 40, 300])
def test_a_killed_process_loses_nothing_that_was_sealed(tmp_path: Path, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [next(writer.stdout) for _ in range(after)]
        writer.kill()
        said += [line for line in writer.stdout if line.endswith("\n")]
    found = set()
    spool = spool_in(tmp_path, max_bytes=1 << 30)
    assert not list(tmp_path.glob("*.new"))
    for segment in drained_without_removal(spool):
        data = spool.read(segment)
        assert data is not None
        (group,) = protobuf.decode(protobuf.decompress(data))
        assert len(group.spans) == segment.spans == 1
        found.add(int(group.spans[0].span_id, 16))
    assert found >= {int(line) for line in said}
    assert len(found) <= len(said) + 1
    spool.add(b"x", 1, keep=True)
    assert len(spool) == len(found) + 1


# -- disks that take nothing ---------------------------------------------------------------------


def test_a_folder_that_takes_nothing_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = spool_in(folder, max_bytes=250)
    spool.add(bytes(100), 1, keep=False)
    shutil.rmtree(folder)
    folder.write_text("a file now", encoding="utf-8")
    spool.add(bytes(100), 2, keep=True)
    spool.add(bytes(200), 4, keep=True)  # makes room: what cannot be removed is let go of
    assert spool.dropped == {"unwritten": 6, "bytes": 1}
    assert (len(spool), spool.size_bytes) == (0, 0)
    folder.unlink()
    folder.mkdir()
    spool.add(bytes(100), 8, keep=True)
    assert [segment.spans for segment in drained(spool)] == [8]


def test_a_name_that_cannot_be_taken_leaves_no_half_file(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    (tmp_path / "000000000001-keep-1-done.pb.gz").mkdir()
    spool.add(b"x", 1, keep=True)
    assert spool.dropped == {"unwritten": 1}
    assert list(tmp_path.glob("*.new")) == []


def test_a_sealed_segment_is_what_was_encoded(tmp_path: Path) -> None:
    span = Span("ab" * 16, "cd" * 8, None, "event", SpanKind.SERVER, 1, 2, {})
    data = protobuf.compress(protobuf.encode({}, [span]))
    spool_in(tmp_path).add(data, 1, keep=True)
    again = spool_in(tmp_path)
    segment = again.oldest()
    assert segment is not None
    assert again.read(segment) == data
