"""JetStream calls beyond storing: requests, streams, direct reads, deliveries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from setsuden.schemas.errors import ForbiddenError, LinkError, UnavailableError

from .link import Link
from .messages import Incoming

SUBJECT, SEQUENCE, STORED_AT = "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"
"""Headers that the server writes behind a stored message's own, so that its word stands."""
_NOT_FOUND = frozenset({10014, 10037, 10059})
_UNCHANGEABLE = frozenset({"retention", "storage"})


class Delivery(NamedTuple):
    """What a pull consumer's reply subject tells about a message."""

    attempt: int
    """1 for the first delivery."""
    stream_sequence: int
    stored_at_ns: int
    pending: int

    @classmethod
    def of(cls, reply: str) -> Delivery:
        """Parse ``$JS.ACK.…`` in both of its forms; raises ValueError."""
        parts = reply.split(".")
        if len(parts) not in {9, 11, 12} or parts[:2] != ["$JS", "ACK"]:
            raise ValueError(f"{reply!r} is no acknowledgement subject")
        tail = parts[4:] if len(parts) == 9 else parts[6:]
        attempt, sequence, _, stored, pending = (int(part) for part in tail[:5])
        return cls(attempt, sequence, stored, pending)


class JetStream:
    """The JetStream API over one link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._replies: dict[str, asyncio.Queue[Incoming]] = {}
        self._next = 0

    async def start(self) -> None:
        """Listen for answers; call once, before the link starts or while it is up."""
        await self._link.subscribe(f"{self._link.inbox}.api.*", self._on_reply)

    def _on_reply(self, message: Incoming) -> None:
        queue = self._replies.get(message.subject.rsplit(".", 1)[-1])
        if queue is not None:
            queue.put_nowait(message)

    def _new_token(self) -> str:
        self._next += 1
        return format(self._next, "x")

    @asynccontextmanager
    async def _conversation(self) -> AsyncIterator[tuple[str, asyncio.Queue[Incoming]]]:
        token = self._new_token()
        queue = self._replies[token] = asyncio.Queue()
        try:
            yield f"{self._link.inbox}.api.{token}", queue
        finally:
            del self._replies[token]

    async def ask(self, subject: str, data: bytes, timeout_seconds: float = 5.0) -> Incoming:
        """One request, one answer; raises UnavailableError."""
        async with self._conversation() as (reply, queue):
            await self._link.send(subject, data, reply=reply)
            try:
                async with asyncio.timeout(timeout_seconds):
                    answer = await queue.get()
            except TimeoutError as error:
                denied = self._link.denial(subject)
                raise denied or UnavailableError(f"no answer on {subject}") from error
        if answer.headers.get("Status") == "503":
            raise UnavailableError(f"nobody answers {subject}", remedy="is JetStream enabled?")
        return answer

    async def api(self, name: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        """One ``$JS.API`` call; raises LinkError with the server's words."""
        answer = await self.ask(f"$JS.API.{name}", json.dumps(body).encode() if body else b"")
        reply: dict[str, Any] = json.loads(answer.data)
        error = reply.get("error")
        if error:
            problem = ForbiddenError if error.get("code") == 403 else LinkError
            raise problem(f"{name}: {error.get('description')} ({error.get('err_code')})")
        return reply

    async def find(self, name: str) -> dict[str, Any] | None:
        """As :meth:`api`, with ``None`` for what does not exist."""
        answer = await self.ask(f"$JS.API.{name}", b"")
        reply: dict[str, Any] = json.loads(answer.data)
        error = reply.get("error")
        if error and error.get("err_code") in _NOT_FOUND:
            return None
        if error:
            raise LinkError(f"{name}: {error.get('description')} ({error.get('err_code')})")
        return reply

    async def server_time_ns(self, stream: str) -> int:
        """The broker's clock, nanoseconds since 1970, as it answers for a stream we may see."""
        found = await self.api(f"STREAM.INFO.{stream}")
        return round(datetime.fromisoformat(found["ts"]).timestamp() * 1e6) * 1000

    async def apply_stream(self, wanted: dict[str, object]) -> bool:
        """Make the stream as declared; True when something changed.

        Raises LinkError when an existing stream differs in what cannot be changed.
        """
        name = wanted["name"]
        found = await self.find(f"STREAM.INFO.{name}")
        if found is None:
            await self.api(f"STREAM.CREATE.{name}", wanted)
            return True
        config = found["config"]
        changed = {key for key, value in wanted.items() if config.get(key) != value}
        for key in changed & _UNCHANGEABLE:
            raise LinkError(
                f"stream {name} has {key} {config.get(key)!r}, not {wanted[key]!r}",
                remedy=f"move its messages and delete it with `nats stream rm {name}`",
            )
        if changed:
            await self.api(f"STREAM.UPDATE.{name}", config | wanted)
        return bool(changed)

    async def apply_consumer(self, stream: str, wanted: dict[str, object]) -> bool:
        """Make the durable consumer as declared; True when something changed."""
        name = wanted["durable_name"]
        found = await self.find(f"CONSUMER.INFO.{stream}.{name}")
        config = found["config"] if found else {}
        if found and all(config.get(key) == value for key, value in wanted.items()):
            return False
        body: dict[str, object] = {"stream_name": stream, "config": config | wanted}
        await self.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body)
        return True

    async def last(self, stream: str, subject: str) -> Incoming | None:
        """The newest stored message of exactly this subject, without any consumer."""
        return (await self.last_of(stream, [subject])).get(subject)

    async def last_of(
        self, stream: str, subjects: Sequence[str], timeout_seconds: float = 5.0
    ) -> dict[str, Incoming]:
        """The newest stored message of each of these subjects that has one.

        One direct get for each, with the subject in the request's own subject: that is what a
        broker can permit by subject. Raises LinkError when one of them is not answered.
        """
        asked: dict[str, str] = {}
        answers: asyncio.Queue[Incoming] = asyncio.Queue()
        newest: dict[str, Incoming] = {}
        try:
            for subject in subjects:
                token = self._new_token()
                asked[token], self._replies[token] = subject, answers
                reply = f"{self._link.inbox}.api.{token}"
                await self._link.send(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", reply=reply)
            async with asyncio.timeout(timeout_seconds):
                for _ in asked:
                    answer = await answers.get()
                    subject = asked[answer.subject.rsplit(".", 1)[-1]]
                    if answer.headers.get(SUBJECT) == subject and SEQUENCE in answer.headers:
                        newest[subject] = answer
                    elif answer.headers.get("Status") != "404":
                        raise UnavailableError(
                            f"stream {stream} cannot be read",
                            remedy="run `setsuden cloud streams`, or grant the device its subjects",
                        )
        except TimeoutError as error:
            denied = self._link.denial(f"$JS.API.DIRECT.GET.{stream}.{subject}")
            raise denied or UnavailableError(f"no answer from stream {stream}") from error
        finally:
            for token in asked:
                del self._replies[token]
        return newest

    async def read(
        self, stream: str, request: dict[str, object], timeout_seconds: float = 5.0
    ) -> list[Incoming]:
        """A batch of stored messages by direct get (ADR-31), without any consumer.

        ``request`` is the API's own, e.g. ``{"next_by_subj": …, "seq": 7, "batch": 256}``.
        """
        body = json.dumps(request).encode()
        stored, end = await self.collect(f"$JS.API.DIRECT.GET.{stream}", body, timeout_seconds)
        status = end.headers.get("Status")
        if status not in {"204", "404"}:
            raise UnavailableError(f"stream {stream} cannot be read now (status {status})")
        return stored

    async def collect(
        self, subject: str, body: bytes, timeout_seconds: float = 5.0
    ) -> tuple[list[Incoming], Incoming]:
        """Stored messages sent in answer to one request, and the answer that ends them.

        Whatever its publisher wrote into its headers, a stored message is one that the server
        stamped with its sequence; the first answer without that stamp is the end.
        """
        stored: list[Incoming] = []
        async with self._conversation() as (reply, queue):
            await self._link.send(subject, body, reply=reply)
            try:
                async with asyncio.timeout(timeout_seconds):
                    while SEQUENCE in (message := await queue.get()).headers:
                        stored.append(message)
            except TimeoutError as error:
                raise self._link.denial(subject) or UnavailableError(
                    f"no answer on {subject}"
                ) from error
        return stored, message
