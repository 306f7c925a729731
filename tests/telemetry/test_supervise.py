"""Telemetry that fails: the process goes on, and somebody hears of it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from setsuden.telemetry.supervise import Supervisor


class FailingPart:
    """Fails some times, then runs."""

    def __init__(self, failures: list[Exception]) -> None:
        self._failures = failures
        self.running = asyncio.Event()
        self.ended = False

    async def run(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


async def test_a_part_that_fails_begins_again_is_counted_and_logged_once_for_each_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    part = FailingPart([ValueError("a"), ValueError("b"), OSError("c"), ValueError("d")])
    supervisor = Supervisor(0.001, 0.01)
    with caplog.at_level(logging.ERROR):
        supervisor.start("spans", part.run)
        async with asyncio.timeout(10):
            await part.running.wait()
    assert supervisor.failures == 4
    records = [record for record in caplog.records if record.message == "telemetry_failed"]
    assert [vars(record)["part"] for record in records] == ["spans", "spans"]
    assert all(record.exc_info for record in records)
    await supervisor.stop()
    assert part.ended


async def test_one_part_does_not_take_another_with_it() -> None:
    bad, good = FailingPart([ValueError("a")] * 1000), FailingPart([])
    supervisor = Supervisor(0.001, 0.001)
    supervisor.start("metrics", bad.run)
    supervisor.start("spans", good.run)
    async with asyncio.timeout(10):
        await good.running.wait()
        while supervisor.failures < 3:  # noqa: ASYNC110  # a counter tells nobody
            await asyncio.sleep(0.001)
    assert not good.ended
    await supervisor.stop()
    assert good.ended
