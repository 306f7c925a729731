"""The stream service: asks JetStream for devices what they may not ask it themselves.

Reading events in batches, learning what is stored and freeing space name a stream and not a
subject, so a device with leave for them could do it to every device's events. It asks here, in
its own name, and gets its own part. Any number may serve; the one that is asked answers.

It also watches: streams that fill, and pipelines that no worker serves.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from pydantic import ValidationError

from setsuden.link import Incoming, JetStream, Link, LinkState
from setsuden.link.jetstream import SEQUENCE, STORED_AT, SUBJECT
from setsuden.link.tasks import end
from setsuden.process import logs
from setsuden.process.reload import Reloader
from setsuden.process.service import notifying, stop_signal
from setsuden.schemas import streams, subjects
from setsuden.schemas.errors import LinkError, MessageTooLargeError, RejectedError
from setsuden.schemas.log import Throttle, get_logger
from setsuden.schemas.stream_service import (
    INFO,
    LAG,
    MAX_REQUEST_BYTES,
    OVERSIZED_HEADER,
    PROOF,
    READ,
    RELEASE,
    LagRequest,
    Proof,
    ReadRequest,
    ReleaseRequest,
    purge_request,
    read_request,
    stream_info,
)

from .config import CloudConfig
from .lag import read_lag
from .topology import apply_all

log = get_logger(__name__)
QUEUE = "stream-service"
MAX_WAITING = 4096
"""Requests waiting to be answered; past it they are dropped and counted, and asked again."""
MAX_WAITING_EACH = 64
"""Of one name: whoever floods waits for himself."""
SERVERS = 8
"""Requests being answered at once."""
WATCH_SECONDS = 15.0
FILLING = 0.8
"""Share of a stream's bound from which on a warning is logged."""
SAY_AGAIN_SECONDS = 3600.0


class _StreamRequest(NamedTuple):
    """As much of one as is needed for its answer."""

    name: str
    """Who asks, as the broker let him."""
    request: str
    reply: str
    data: bytes


Answer = Callable[[_StreamRequest], Awaitable[None]]


class StreamService:
    """Serves devices, and watches the streams, over one link with an operator's rights."""

    def __init__(self, config: CloudConfig, link: Link, jetstream: JetStream) -> None:
        self._config, self._link, self._jetstream = config, link, jetstream
        self._requests: asyncio.Queue[_StreamRequest] = asyncio.Queue(MAX_WAITING)
        self._waiting: Counter[str] = Counter()
        self._answers: dict[str, Answer] = {
            INFO: self._info,
            READ: self._read,
            RELEASE: self._release,
            PROOF: self._proof,
            LAG: self._lag,
        }
        self.watch = StreamWatch(config, jetstream)
        self._refusals = Throttle()
        self.counts: Counter[str] = Counter()
        """Answered, refused, dropped and failed requests."""

    async def start(self) -> None:
        """Listen for requests; before the link starts, or while it is up."""
        await self._link.subscribe(subjects.service("*", "*"), self._on_request, queue=QUEUE)

    async def run(self) -> None:
        """Answer and watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(SERVERS):
                tasks.create_task(self._serve())
            tasks.create_task(self._keep_watch())

    @property
    def waiting(self) -> int:
        """Requests that nobody has begun to answer."""
        return self._requests.qsize()

    def _on_request(self, message: Incoming) -> None:
        """Keep no more of a request than is needed: whatever waits takes memory."""
        _, name, request = message.subject.split(".")
        known = request in self._answers and subjects.is_token(name)
        if not known or not message.reply or len(message.data) > MAX_REQUEST_BYTES:
            self.counts["refused"] += 1
        elif self._waiting[name] >= MAX_WAITING_EACH or self._requests.full():
            self.counts["dropped"] += 1
        else:
            self._waiting[name] += 1
            self._requests.put_nowait(_StreamRequest(name, request, message.reply, message.data))

    def _taken(self, name: str) -> None:
        self._waiting[name] -= 1
        if not self._waiting[name]:  # names may be made up: none stays
            del self._waiting[name]

    async def _serve(self) -> None:
        while True:
            request = await self._requests.get()
            self._taken(request.name)
            try:
                await self._answer(request)
            except LinkError as error:  # the asker hears nothing and asks again
                self.counts["failed"] += 1
                log.debug("request_failed", detail=str(error))
            except Exception:
                self.counts["failed"] += 1
                log.exception("request_failed")

    async def _answer(self, request: _StreamRequest) -> None:
        try:
            await self._answers[request.request](request)
        except (ValidationError, RejectedError) as error:
            self.counts["refused"] += 1
            suppressed = self._refusals.due()
            if suppressed is not None:
                subject = subjects.service(request.name, request.request)
                log.warning(
                    "request_refused",
                    subject=subject,
                    suppressed=suppressed,
                    detail=type(error).__name__,
                )
            return
        self.counts["answered"] += 1

    async def _info(self, request: _StreamRequest) -> None:
        mine: dict[str, object] = {"subjects_filter": subjects.events_of(request.name)}
        info = stream_info(await self._jetstream.api(f"STREAM.INFO.{streams.EVENTS}", mine))
        more = {
            "results_max_age_seconds": self._config.streams.results_max_age_seconds,
            "unserved": tuple(sorted(self.watch.unserved)),
        }
        answer = info.model_copy(update=more)
        await self._link.send(request.reply, answer.model_dump_json().encode())

    async def _read(self, request: _StreamRequest) -> None:
        """The device's events, one message each as it is stored, then an empty one."""
        wanted = ReadRequest.model_validate_json(request.data)
        stored = await self._jetstream.read(streams.EVENTS, read_request(wanted, request.name))
        for event in stored:
            await self._pass_on(request.reply, event)
        await self._link.send(request.reply, b"")

    async def _pass_on(self, reply: str, event: Incoming) -> None:
        headers = dict(event.headers)
        try:
            await self._link.send(reply, event.data, headers=headers)
        except MessageTooLargeError:
            # With the server's stamps it is over the server's bound. Nobody takes one so large.
            stamps = {name: headers[name] for name in (SUBJECT, SEQUENCE, STORED_AT, "Nats-Stream")}
            stamps[OVERSIZED_HEADER] = str(len(event.data))
            await self._link.send(reply, b"", headers=stamps)

    async def _release(self, request: _StreamRequest) -> None:
        gone = purge_request(ReleaseRequest.model_validate_json(request.data), request.name)
        await self._jetstream.api(f"STREAM.PURGE.{streams.EVENTS}", gone)
        await self._link.send(request.reply, b"{}")

    async def _proof(self, request: _StreamRequest) -> None:
        """Our own link is up: what it demands of the server has been proven to us."""
        proof = Proof(
            version=self._link.server_version,
            sync_always=self._config.nats.durability == "strict",
        )
        await self._link.send(request.reply, proof.model_dump_json().encode())

    async def _lag(self, request: _StreamRequest) -> None:
        wanted = LagRequest.model_validate_json(request.data)
        lag = await read_lag(self._jetstream, wanted)
        await self._link.send(request.reply, lag.model_dump_json().encode())

    async def _keep_watch(self) -> None:
        while True:
            if self._link.state is LinkState.UP:
                try:
                    await self._look()
                except LinkError as error:
                    log.debug("streams_unseen", detail=str(error))
                except Exception as error:  # whatever the broker says, devices are served
                    suppressed = self._refusals.due()
                    if suppressed is not None:
                        log.exception(
                            "streams_unreadable", detail=type(error).__name__, suppressed=suppressed
                        )
            await asyncio.sleep(WATCH_SECONDS)

    async def _look(self) -> None:
        """What vanished is made again: workers that log in may not, and agents cannot."""
        if await self.watch.look(asyncio.get_running_loop().time()):
            await apply_all(self._jetstream, self._config)


class StreamWatch:
    """What an operator should hear of long before events wait: said once, and again each hour."""

    def __init__(self, config: CloudConfig, jetstream: JetStream) -> None:
        self._config, self._jetstream = config, jetstream
        self._idle: Counter[str] = Counter()
        self._warned_at: dict[str, float] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self.unserved: set[str] = set()
        """Pipelines whose escalations nobody asks for, at two looks in a row."""

    async def look(self, now: float) -> bool:
        """Look once, and be True when a stream or a consumer is missing; raises LinkError."""
        there = True
        for stream in streams.all_streams(self._config.streams):
            there &= await self._look_at_stream(stream, now)
        for pipeline in self._config.pipelines:
            there &= await self._look_at_consumer(pipeline.name, now)
        return not there

    async def _look_at_stream(self, wanted: dict[str, object], now: float) -> bool:
        name = str(wanted["name"])
        info = await self._jetstream.find(f"STREAM.INFO.{name}")
        if info is None:
            self._first.pop(name, None)
            self._say(f"missing/{name}", now, "stream_missing", stream=name)
            return False
        self._warned_at.pop(f"missing/{name}", None)
        self._compare(name, wanted, info["config"], now)
        used, bound = int(info["state"]["bytes"]), int(info["config"]["max_bytes"])
        first = self._first.setdefault(name, (now, used))
        if bound <= 0 or used < FILLING * bound:
            self._warned_at.pop(f"filling/{name}", None)
            return True
        growth = (used - first[1]) / max(now - first[0], 1.0)
        hours = round((bound - used) / growth / 3600, 1) if growth > 0 else None
        self._say(
            f"filling/{name}", now, "stream_filling", stream=name,
            used_bytes=used, bound_bytes=bound, hours_left=hours,
        )  # fmt: skip
        return True

    def _compare(
        self, name: str, wanted: dict[str, object], actual: dict[str, object], now: float
    ) -> None:
        """Changes of others stay until something is applied, but may undo what is promised."""
        differs = sorted(key for key, value in wanted.items() if actual.get(key) != value)
        if differs:
            self._say(f"differs/{name}", now, "stream_differs", stream=name, options=differs)
        else:
            self._warned_at.pop(f"differs/{name}", None)

    async def _look_at_consumer(self, pipeline: str, now: float) -> bool:
        name = streams.consumer_name(self._config.region, pipeline)
        info = await self._jetstream.find(f"CONSUMER.INFO.{streams.ESCALATIONS}.{name}")
        busy = info is not None and (info["num_waiting"] or info["num_ack_pending"])
        self._idle[pipeline] = 0 if busy else self._idle[pipeline] + 1
        if self._idle[pipeline] < 2:
            self.unserved.discard(pipeline)
            self._warned_at.pop(f"unserved/{pipeline}", None)
            return info is not None
        self.unserved.add(pipeline)
        pending = 0 if info is None else int(info["num_pending"])
        self._say(
            f"unserved/{pipeline}", now, "pipeline_unserved", pipeline=pipeline, waiting=pending
        )
        return info is not None

    def _say(self, key: str, now: float, event: str, **facts: object) -> None:
        if now - self._warned_at.get(key, -SAY_AGAIN_SECONDS) >= SAY_AGAIN_SECONDS:
            self._warned_at[key] = now
            log.warning(event, **facts)


def serve_streams(config: CloudConfig, load: Callable[[], CloudConfig] | None = None) -> int:
    """Apply, then serve until SIGTERM or SIGINT; 0 after a clean stop. Raises LinkError.

    ``load`` reads the configuration again at SIGHUP.
    """
    logs.configure(config.log_level)
    return asyncio.run(_serve_until_stopped(config, load))


async def _serve_until_stopped(config: CloudConfig, load: Callable[[], CloudConfig] | None) -> int:
    link = Link(config.nats, "streams")
    async with notifying(lambda: f"link {link.state.value}", link) as manager:
        Reloader(config, load, link, manager).install()
        manager.ready()
        await serve(config, stop_signal(), link)
    return 0


@asynccontextmanager
async def serving_beside(
    config: CloudConfig, jetstream: JetStream, link: Link
) -> AsyncIterator[None]:
    """Serve devices beside other work, where nobody else need be trusted with it."""
    if not config.nats.anonymous:
        yield
        return
    service = StreamService(config, link, jetstream)
    await service.start()
    serving = asyncio.create_task(service.run(), name="streams")
    try:
        yield
    finally:
        await end(serving)


@asynccontextmanager
async def serving_alone(config: CloudConfig) -> AsyncIterator[None]:
    """The same over a link of its own, for a process that has none; never waits for the broker."""
    link = Link(config.nats, "streams")
    jetstream = JetStream(link)
    await jetstream.start()
    async with serving_beside(config, jetstream, link):
        if config.nats.anonymous:
            link.start()
        try:
            yield
        finally:
            await link.close()


async def serve(config: CloudConfig, stop: asyncio.Future[None], link: Link | None = None) -> None:
    """Apply streams and consumers, then serve until ``stop`` is done; raises LinkError.

    It waits for a broker that cannot be reached, and then too ends when ``stop`` is done.
    """
    link = link or Link(config.nats, "streams")
    jetstream = JetStream(link)
    await jetstream.start()
    service = StreamService(config, link, jetstream)
    await service.start()
    link.start()
    serving = asyncio.create_task(_apply_and_run(service, config, link, jetstream), name="streams")
    try:
        await asyncio.wait([serving, stop], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        await end(serving)
        await link.close()
        log.info("stream_service_stopped", **service.counts)


async def _apply_and_run(
    service: StreamService, config: CloudConfig, link: Link, jetstream: JetStream
) -> None:
    await link.wait_up(None, refused_ends=True)
    await apply_all(jetstream, config)
    log.info("stream_service_ready")
    await service.run()
