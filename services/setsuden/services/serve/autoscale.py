"""Replicas by the consumer's lag: no request goes through Serve, so its own policy sees none."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from setsuden.link import JetStream, Link, LinkOptions
from setsuden.link.credentials import principal
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger
from setsuden.schemas.stream_service import Lag, LagRequest
from setsuden.services.lag import ask_lag, read_lag

log = get_logger(__name__)
_CONNECT_SECONDS = 5.0
_POLL_SECONDS = 2.0
"""How often the consumer's state is read."""


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
        region: str,
        pipeline: str,
        target_lag: int,
        target_age_seconds: float,
    ) -> None:
        # Reading a number needs no proof of durability.
        self._options = LinkOptions.model_validate(nats | {"durability": "relaxed"})
        self._request = LagRequest(region=region, pipeline=pipeline)
        self._target_lag, self._target_age = target_lag, target_age_seconds
        self._lag: Lag | None = None
        self._task: asyncio.Task[None] | None = None
        self._polled = 0.0

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas; the current one while the lag is unknown."""
        self._poll_when_due()
        if self._lag is None:
            return ctx.target_num_replicas, {}
        wanted = desired(self._lag, ctx.current_num_replicas, self._target_lag, self._target_age)
        return wanted, self._lag.model_dump()

    def _poll_when_due(self) -> None:
        if self._task is not None and self._task.done():
            self._task = None
        now = time.monotonic()
        if self._task is None and now - self._polled >= _POLL_SECONDS:
            self._polled = now
            self._task = asyncio.get_running_loop().create_task(self._poll())

    async def _poll(self) -> None:
        try:
            self._lag = await lag_of(self._options, self._request)
        except LinkError as error:
            self._lag = None  # scale on nothing rather than on what is no longer true
            log.warning("lag_unknown", detail=str(error))


async def lag_of(options: LinkOptions, request: LagRequest) -> Lag:
    """The lag now; raises LinkError. A worker that logs in may not ask JetStream itself."""
    link = Link(options, "autoscaler")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await link.wait_up(_CONNECT_SECONDS)
        if options.anonymous:
            return await read_lag(jetstream, request)
        name = await asyncio.to_thread(principal, options)
        return await ask_lag(jetstream, name or link.name, request)
    finally:
        await link.close()
