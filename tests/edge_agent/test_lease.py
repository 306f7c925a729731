"""One agent for each device name."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.cloud import until

from setsuden.edge_agent.lease import (
    DEAD_SECONDS,
    DeviceTakenError,
    Lease,
    LeaseRecord,
    LeaseStep,
    SeenLease,
    decide,
)
from setsuden.edge_agent.outbox import Outbox
from setsuden.link import JetStream, Link, LinkState
from setsuden.schemas import streams, subjects
from setsuden.testing.broker import LocalBroker

MINE = LeaseRecord(life="life-1", owner="here", folder="f")


def other(owner: str = "elsewhere", life: str = "life-2") -> LeaseRecord:
    return LeaseRecord(life=life, owner=owner, folder="f", host="pi")


def test_a_name_that_nobody_holds_is_taken() -> None:
    assert decide(MINE, False, None, 0, None, 0.0) == (LeaseStep.TAKE, None)


def test_the_last_start_of_the_same_folder_is_succeeded_at_once() -> None:
    assert decide(MINE, False, other(owner="here"), 7, None, 0.0)[0] is LeaseStep.TAKE


def test_a_copy_of_the_folder_that_runs_is_not_taken_for_the_last_start() -> None:
    assert decide(MINE, True, other(owner="here"), 7, None, 0.0)[0] is LeaseStep.REFUSE


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0.1, 20)), min_size=1, max_size=30))
def test_a_holder_is_gone_once_its_record_stood_still_long_enough_and_never_before(
    looks: list[tuple[int, float]],
) -> None:
    """Each look sees the record at some sequence, some seconds after the one before."""
    seen: SeenLease | None = None
    now, still_since, sequence = 0.0, None, 0
    for step, pause in looks:
        now += pause
        changed = step == 1 or still_since is None
        if changed:
            sequence += 1
            still_since = now
        action, seen = decide(MINE, False, other(), sequence, seen, now)
        assert still_since is not None
        gone = now - still_since >= DEAD_SECONDS
        assert action is (LeaseStep.TAKE_OVER if gone else LeaseStep.REFUSE)


# -- on a broker -------------------------------------------------------------------------------

Start = Callable[[Path], "asyncio.Future[Link]"]


class Claimant:
    """An agent as far as its lease goes."""

    def __init__(self, folder: Path, broker: LocalBroker) -> None:
        self.outbox = Outbox(folder, keep_seconds=60, keep_events=10)
        self.link = Link(broker.options, "dev")
        self.jetstream = JetStream(self.link)
        self.lease = Lease("dev", self.outbox, self.link, self.jetstream)
        self.rolled_back = 0
        self.lease.on_rolled_back = self._count
        self.link.admission = self.lease.acquire

    def _count(self) -> None:
        self.rolled_back += 1

    async def start(self) -> None:
        await self.jetstream.start()
        self.link.start()

    async def settled(self) -> LinkState:
        """The link's state once it is up or refused."""
        await until(lambda: self.link.state is not LinkState.DOWN, 20, 0.01)
        return self.link.state

    async def close(self) -> None:
        await self.link.close()
        self.outbox.close()


@pytest.fixture
async def claimants(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> AsyncIterator[Callable[[str], Claimant]]:
    async with AsyncExitStack() as ends:

        def make(name: str) -> Claimant:
            claimant = Claimant(tmp_path / name, broker)
            ends.push_async_callback(claimant.close)
            return claimant

        yield make


async def test_the_second_agent_of_a_name_is_refused_with_the_first_ones_host(
    claimants: Callable[[str], Claimant],
) -> None:
    first, second = claimants("a"), claimants("b")
    await first.start()
    assert await first.settled() is LinkState.UP
    await second.start()
    assert await second.settled() is LinkState.REFUSED
    problem = second.link.problem
    assert isinstance(problem, DeviceTakenError)
    assert "in use by another agent" in str(problem)
    assert "frees its name" in str(problem)


async def test_a_copied_folder_is_refused_while_the_first_one_runs(
    tmp_path: Path, claimants: Callable[[str], Claimant]
) -> None:
    first = claimants("a")
    await first.start()
    assert await first.settled() is LinkState.UP
    shutil.copytree(tmp_path / "a", tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock"))
    copy = claimants("copy")
    await copy.start()
    assert await copy.settled() is LinkState.REFUSED


async def test_a_restart_takes_its_name_back_at_once(
    tmp_path: Path, claimants: Callable[[str], Claimant]
) -> None:
    first = claimants("a")
    await first.start()
    assert await first.settled() is LinkState.UP
    await first.link.close()
    first.outbox._lock.close()  # as when the process was killed
    again = claimants("a")
    await again.start()
    assert await again.settled() is LinkState.UP


async def test_an_agent_whose_record_was_replaced_gives_the_link_up(
    claimants: Callable[[str], Claimant], jetstream: JetStream, link: Link
) -> None:
    first = claimants("a")
    await first.start()
    assert await first.settled() is LinkState.UP
    body = other().model_dump_json().encode()
    await link.store(subjects.lease("dev"), body)
    await first.lease._look_again()
    await until(lambda: first.link.state is LinkState.REFUSED, 20, 0.01)
    assert isinstance(first.link.problem, DeviceTakenError)


async def test_a_folder_older_than_what_its_device_has_done_is_noticed(
    claimants: Callable[[str], Claimant], link: Link, jetstream: JetStream
) -> None:
    first = claimants("a")
    folder = first.outbox.recall("folder") or ""
    record = LeaseRecord(life="x", owner=first.lease._record.owner, folder=folder, sequence=99)
    await link.store(subjects.lease("dev"), record.model_dump_json().encode())
    await first.start()
    assert await first.settled() is LinkState.UP
    assert first.rolled_back == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 4000, b'{"life": 7}', b"x" * 4000])
async def test_a_record_that_cannot_be_read_holds_nothing(
    claimants: Callable[[str], Claimant], link: Link, jetstream: JetStream, body: bytes
) -> None:
    await link.store(subjects.lease("dev"), body)
    first = claimants("a")
    await first.start()
    assert await first.settled() is LinkState.UP
    stored = await jetstream.last(streams.LEASES, subjects.lease("dev"))
    assert stored is not None
    assert LeaseRecord.model_validate_json(stored.data).owner == first.lease._record.owner
