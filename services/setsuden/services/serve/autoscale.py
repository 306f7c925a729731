"""Replicas by the consumer's lag: no request goes through Serve, so its own policy sees none."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import datetime
from typing import Any, NamedTuple

from setsuden.link import JetStream, Link, LinkOptions
from setsuden.schemas.errors import LinkError
from setsuden.schemas.streams import ESCALATIONS

log = logging.getLogger(__name__)
_CONNECT_SECONDS = 5.0


class Lag(NamedTuple):
    """What waits for one teacher."""

    pending: int
    """Stored and not yet delivered."""
    in_hand: int
    """Delivered and not yet acknowledged."""
    oldest_seconds: float
    """Age of the oldest that was never delivered; 0 without any."""


def desired(lag: Lag, replicas: int, target_lag: int, target_age_seconds: float) -> int:
    """How many replicas this lag asks for; Serve holds the bounds and the delays."""
    waiting = lag.pending + lag.in_hand
    if not waiting:
        return 0
    wanted = math.ceil(waiting / target_lag)
    if lag.pending and lag.oldest_seconds > target_age_seconds:
        wanted = max(wanted, replicas + 1)
    return max(1, wanted)


class LagPolicy:
    """Polls the consumer by one-shot tasks: a loop of its own would outlive the deployment."""

    def __init__(
        self,
        *,
        nats: dict[str, Any],
        consumer: str,
        subject: str,
        target_lag: int,
        target_age_seconds: float,
        poll_seconds: float,
    ) -> None:
        # Reading a number needs no proof of durability.
        self._options = LinkOptions.model_validate(nats | {"durability": "relaxed"})
        self._consumer, self._subject = consumer, subject
        self._target_lag, self._target_age = target_lag, target_age_seconds
        self._poll_seconds = poll_seconds
        self._lag: Lag | None = None
        self._task: asyncio.Task[None] | None = None
        self._polled = 0.0

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas; the current one while the lag is unknown."""
        self._poll_when_due()
        if self._lag is None:
            return ctx.target_num_replicas, {}
        wanted = desired(self._lag, ctx.current_num_replicas, self._target_lag, self._target_age)
        return wanted, self._lag._asdict()

    def _poll_when_due(self) -> None:
        if self._task is not None and self._task.done():
            self._task = None
        now = time.monotonic()
        if self._task is None and now - self._polled >= self._poll_seconds:
            self._polled = now
            self._task = asyncio.get_running_loop().create_task(self._poll())

    async def _poll(self) -> None:
        try:
            self._lag = await read_lag(self._options, self._consumer, self._subject)
        except LinkError as error:
            self._lag = None  # scale on nothing rather than on what is no longer true
            log.warning("lag_unknown", extra={"detail": str(error)})


async def read_lag(options: LinkOptions, consumer: str, subject: str) -> Lag:
    """The consumer's lag now; raises LinkError."""
    link = Link(options, "autoscaler")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await link.wait_up(_CONNECT_SECONDS)
        found = await jetstream.find(f"CONSUMER.INFO.{ESCALATIONS}.{consumer}")
        if found is None:
            return Lag(0, 0, 0.0)
        age = await _oldest(jetstream, found, subject) if found["num_pending"] else 0.0
        return Lag(found["num_pending"], found["num_ack_pending"], age)
    finally:
        await link.close()


async def _oldest(jetstream: JetStream, info: dict[str, Any], subject: str) -> float:
    after = info["delivered"]["stream_seq"] + 1
    request: dict[str, object] = {"next_by_subj": subject, "seq": after, "batch": 1}
    messages = await jetstream.read(ESCALATIONS, request)
    if not messages:
        return 0.0
    return max(0.0, time.time() - _stamp(messages[0].headers.get("Nats-Time-Stamp", "")))


def _stamp(text: str) -> float:
    """Seconds since 1970; an unreadable stamp counts as now."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return time.time()
