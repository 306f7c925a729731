"""Overlapped pull requests on an inbox of our own.

``PullSubscription.fetch()`` of nats-py costs 31 µs an event, this 8, and it can wait
for ever on a consumer that is gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from setsuden.link import Incoming, Link, LinkState
from setsuden.link.tasks import Backoff, wait
from setsuden.link.untrusted import number
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger

log = get_logger(__name__)
HEARTBEAT_SECONDS = 2.0
"""The broker speaks at least this often while a request of ours is open."""
SILENT_BEATS = 2.5
_GRACE_SECONDS = 1.0
_REPAIR_PAUSE_SECONDS = 0.25
_LONGEST_REPAIR_PAUSE_SECONDS = 5.0
_GONE = ("consumer deleted", "consumer not found", "no responders")


@dataclass(slots=True)
class _Pull:
    """One request the broker may still serve."""

    batch: int
    deadline: float


class Puller:
    """Keeps up to ``prefetch`` events asked for or queued; hands each one to ``take``.

    Several on one link need an ``inbox`` each.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        consumer: str,
        *,
        prefetch: int,
        expires_seconds: float,
        take: Callable[[Incoming], None],
        repair: Callable[[], Awaitable[None]],
        inbox: str = "pull",
    ) -> None:
        self._link = link
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = f"{link.inbox}.{inbox}"
        self._prefetch = prefetch
        self._expires = expires_seconds
        self._take = take
        self._repair = repair
        self._beat = min(HEARTBEAT_SECONDS, expires_seconds / 2.5)
        self._pulls: dict[str, _Pull] = {}
        self._live = 0  # sum of their batches
        self._asked = 0
        self._queued = 0
        self._next = 0
        self._heard = 0.0
        self._broken = True
        self._absent = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Ask for events until cancelled; survives the link, the broker and the consumer."""
        await self._link.subscribe(f"{self._inbox}.*", self._on_message)
        self._link.listen(self._on_link)
        pauses = Backoff(_REPAIR_PAUSE_SECONDS, _LONGEST_REPAIR_PAUSE_SECONDS)
        while True:
            try:
                await self._turn()
                pauses.reset()
            except LinkError as error:
                log.warning("pull_failed", detail=str(error))
                self._broken = True
                await asyncio.sleep(pauses.next())

    def consumed(self, count: int) -> None:
        """So many events left the queue: there is room for as many more."""
        self._queued -= count
        if self._room() >= self._chunk:
            self._changed.set()

    @property
    def pulling(self) -> bool:
        """True once the consumer was seen and asked."""
        return not self._broken

    @property
    def _chunk(self) -> int:
        """Requests of half the prefetch: two of them overlap."""
        return max(1, self._prefetch // 2)

    def _room(self) -> int:
        return self._prefetch - self._queued - self._asked

    async def _turn(self) -> None:
        if self._link.state is not LinkState.UP:
            await self._wait(None)
            return
        if self._broken:
            await self._repair()
            self._forget()
            absent, self._absent = self._absent, False
            if absent:  # made again or not, it wants a pause before it is asked
                raise LinkError("the consumer is not there")
            self._broken = False
        self._drop_orphans()
        room = self._room()
        if room >= self._chunk or (room > 0 and not self._asked):
            await self._ask(room)
        await self._wait(self._beat)

    async def _wait(self, seconds: float | None) -> None:
        if await wait(self._changed, seconds):
            self._changed.clear()

    async def _ask(self, batch: int) -> None:
        self._next += 1
        token = format(self._next, "x")
        request = {
            "batch": batch,
            "expires": round(self._expires * 1e9),
            "idle_heartbeat": round(self._beat * 1e9),
        }
        now = self._loop.time()
        self._pulls[token] = _Pull(batch, now + self._expires + _GRACE_SECONDS)
        self._live += batch
        self._asked += batch
        self._heard = max(self._heard, now)
        body = json.dumps(request, separators=(",", ":")).encode()
        await self._link.send(self._subject, body, reply=f"{self._inbox}.{token}")

    def _on_message(self, message: Incoming) -> None:
        self._heard = self._loop.time()
        if message.reply:
            self._asked = max(0, self._asked - 1)
            self._queued += 1
            self._take(message)
        else:
            self._on_status(message)

    def _on_status(self, message: Incoming) -> None:
        """404, 408 and 409 end a request, 503 says that there is no consumer; 100 is a beat."""
        if message.status == "100":
            return
        pull = self._pulls.pop(message.subject.rsplit(".", 1)[-1], None)
        batch = 0 if pull is None else pull.batch
        self._live -= batch
        left = message.headers.get("Nats-Pending-Messages", "")
        try:
            unserved = number(left)
        except ValueError:
            unserved = batch
        self._asked = max(0, self._asked - unserved)
        self._absent = message.status == "503"
        if self._absent or any(gone in message.description.lower() for gone in _GONE):
            self._broken = True
        self._changed.set()

    def _on_link(self, state: LinkState) -> None:
        if state is LinkState.UP:
            self._broken = True
        self._changed.set()

    def _drop_orphans(self) -> None:
        """Forget requests that were served or have expired; silence means that all are lost.

        The broker does not say which request an event is for, so the oldest count as served.
        """
        now = self._loop.time()
        while self._pulls:
            token, oldest = next(iter(self._pulls.items()))
            if oldest.deadline >= now and self._live - oldest.batch < self._asked:
                break
            del self._pulls[token]
            self._live -= oldest.batch
        self._asked = min(self._asked, self._live)
        if self._asked and now - self._heard > SILENT_BEATS * HEARTBEAT_SECONDS:
            raise LinkError("the broker is silent on an open pull request")

    def _forget(self) -> None:
        self._pulls.clear()
        self._live = self._asked = 0
        self._heard = self._loop.time()
