"""The core with its outbox and its timer: decisions are written first, and sent when durable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial

from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Problem, Result

from .core import AgentCore, Cursor, Effects, Now, Send
from .outbox import Outbox, OutboxBrokenError, OutboxUnwritableError, RowDamagedError


class DurableCore:
    """Carries out the core's effects, up to the sends that are ready for the sender."""

    def __init__(self, core: AgentCore, outbox: Outbox) -> None:
        self.core, self.outbox = core, outbox
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[SetsudenError] = self._loop.create_future()
        """Done when the outbox cannot be written for good."""
        self._sends: list[Send] = []
        self._sends_waiting = asyncio.Event()
        self._applied = asyncio.Event()
        self._wakeup: asyncio.TimerHandle | None = None
        self._wakeup_ns: int | None = None

    def restore(self) -> int:
        """Take up what the outbox holds; how many rows were damaged.

        A damaged row gets its final result: a dead letter with the reason.
        """
        self.core.restore(now(), self.outbox.open_rows())
        for damaged in self.outbox.damaged:
            if damaged.was is not None:
                problem = Problem(code=RowDamagedError.code, message=damaged.reason)
                event, out = _event_of(damaged.was), Effects()
                self.core.bury(now(), event, damaged.was.event_id, problem, out)
                self.apply(out)
        return len(self.outbox.damaged)

    # -- effects ------------------------------------------------------------------------------

    def commit(self, out: Effects, cursor: Cursor | None, reading: int) -> Awaitable[None]:
        """Queue a batch of acceptances, in the order of the calls; many share one commit.

        Wait for it until they are durable. Raises OutboxUnwritableError while the disk takes
        nothing, and OutboxBrokenError for good.
        """
        written = None
        if out.writes or cursor is not None:
            written = self.outbox.submit(out.writes, cursor, refusable=True, reading=reading)
        return self._durable(written)

    async def _durable(self, written: asyncio.Future[None] | None) -> None:
        try:
            if written is not None:
                await written
        except OutboxUnwritableError:
            raise
        except Exception as error:
            raise self._break(error) from error

    def apply(self, out: Effects) -> None:
        """Do what the core decided: writes first, sends when they are durable."""
        if out.writes:
            self.outbox.submit(out.writes).add_done_callback(partial(self._written, out))
        else:
            self.release(out)

    def _written(self, out: Effects, written: asyncio.Future[None]) -> None:
        if written.cancelled():
            return
        error = written.exception()
        if error is None:
            self.release(out)
        else:
            self._break(error)

    def release(self, out: Effects) -> None:
        """Let the sends go, whose writes are durable."""
        if out.sends:
            self._sends += out.sends
            self._sends_waiting.set()
        self._applied.set()
        self._schedule()

    def send(self, send: Send) -> None:
        """Queue one send that needs no write."""
        self._sends.append(send)
        self._sends_waiting.set()

    async def sends(self) -> list[Send]:
        """What is ready to be sent, in order; waits until there is something."""
        await self._sends_waiting.wait()
        self._sends_waiting.clear()
        ready, self._sends = self._sends, []
        return ready

    async def until_below(self, pending_bytes: int) -> None:
        """Wait until the observations that wait for the cloud are fewer bytes than that."""
        while self.core.pending_bytes >= pending_bytes:
            self._applied.clear()
            await self._applied.wait()

    def _break(self, error: BaseException) -> OutboxBrokenError:
        """Crash-only: what is not on disk must not be answered for."""
        problem = OutboxBrokenError(
            f"the outbox cannot be written: {error}",
            remedy="free disk space or replace the disk, then start the agent again",
        )
        if not self.broken.done():
            self.broken.set_result(problem)
        return problem

    # -- time ---------------------------------------------------------------------------------

    def _schedule(self) -> None:
        due = self.core.next_wakeup_ns()
        if due == self._wakeup_ns:
            return
        if self._wakeup is not None:
            self._wakeup.cancel()
        self._wakeup_ns = due
        if due is not None:
            delay = max(0, due - time.monotonic_ns()) / 1e9
            self._wakeup = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._wakeup_ns = None
        self.apply(self.core.tick(now()))
        self._schedule()


def now() -> Now:
    """The present on both clocks."""
    return Now(time.time_ns(), time.monotonic_ns())


def _event_of(result: Result) -> Event:
    """As much of an event as its result tells."""
    return Event(
        id=result.source_id or result.event_id,
        source="outbox",
        pipeline=result.pipeline,
        device=result.device,
        idempotency_key=result.idempotency_key,
        trace_id=result.trace_id or None,
        data=b"",
    )
