"""JetStream calls beyond storing: requests, streams, direct reads, deliveries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from setsuden.schemas.errors import ForbiddenError, LinkError, UnavailableError

from .answers import ENDED, AnswerQueue
from .link import Link, LinkState
from .messages import Incoming
from .untrusted import json_object, number, printable

SUBJECT, SEQUENCE, STORED_AT = "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"
"""Headers that the server writes behind a stored message's own, so that its word stands."""
_STAMP = frozenset({SUBJECT, SEQUENCE})
"""In every stored message that the server hands out, and in no answer of its own: a message
without these is the server's word, whatever its publisher wrote."""
_NOT_FOUND = frozenset({10014, 10037, 10059})
_UNCHANGEABLE = frozenset({"retention", "storage"})
_TRY_AGAIN = frozenset({408, 429, 500, 503})
"""Codes of JetStream's answers that pass: no leader yet (10008), too many requests (10167)."""

_NO_ROOM = (
    "the server or its account has less room than the streams' bounds together: lower them "
    "([streams]; `setsuden cloud streams --plan RATE`), or raise max_file_store"
)
_DISABLED = "give the server a jetstream block, and the account `jetstream: enabled`"
_REMEDIES = dict.fromkeys((10002, 10023, 10028, 10047), _NO_ROOM) | dict.fromkeys(
    (10035, 10039, 10076), _DISABLED
)


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
            raise ValueError(f"{printable(reply)!r} is no acknowledgement subject")
        tail = parts[4:] if len(parts) == 9 else parts[6:]
        attempt, sequence, _, stored, pending = [number(part) for part in tail[:5]]
        return cls(attempt, sequence, stored, pending)


class JetStream:
    """The JetStream API over one link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._replies: dict[str, AnswerQueue] = {}
        self._next = 0

    async def start(self) -> None:
        """Listen for answers; call once, before the link starts or while it is up."""
        self._link.listen(self._on_link)
        self._link.listen_denied(self._on_denied)
        await self._link.subscribe(f"{self._link.inbox}.api.*", self._on_reply)

    def _on_reply(self, message: Incoming) -> None:
        queue = self._replies.get(message.subject.rsplit(".", 1)[-1])
        if queue is not None:
            queue.put_nowait(message)

    def _on_link(self, state: LinkState) -> None:
        if state is not LinkState.UP:
            for token, answers in self._replies.items():
                answers.end(token, "the link to the broker is down")

    def _on_denied(self, subject: str, error: ForbiddenError) -> None:
        for token, answers in self._replies.items():
            if answers.subject.lower() == subject:
                answers.end(token, error.message)

    def _new_token(self) -> str:
        self._next += 1
        return format(self._next, "x")

    @asynccontextmanager
    async def _conversation(self, subject: str = "") -> AsyncIterator[tuple[str, AnswerQueue]]:
        token = self._new_token()
        queue = self._replies[token] = AnswerQueue(subject)
        try:
            yield f"{self._link.inbox}.api.{token}", queue
        finally:
            del self._replies[token]

    async def ask(self, subject: str, data: bytes, timeout_seconds: float = 5.0) -> Incoming:
        """One request, one answer; raises UnavailableError, at once when the link is lost."""
        async with self._conversation(subject) as (reply, queue):
            await self._link.send(subject, data, reply=reply)
            try:
                async with asyncio.timeout(timeout_seconds):
                    answer = await queue.get()
            except TimeoutError as error:
                denied = self._link.denial(subject)
                raise denied or UnavailableError(f"no answer on {subject}") from error
        if answer.status == ENDED:
            raise self._link.denial(subject) or UnavailableError(answer.description)
        if answer.status == "503":
            raise UnavailableError(f"nobody answers {subject}", remedy="is JetStream enabled?")
        return answer

    async def api(self, name: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        """One ``$JS.API`` call; raises LinkError with the server's words."""
        reply, error = await self._call(name, body)
        if error is not None:
            raise error
        return reply

    async def find(self, name: str) -> dict[str, Any] | None:
        """As :meth:`api`, with ``None`` for what does not exist."""
        reply, error = await self._call(name, None)
        if error is None:
            return reply
        if _code(reply["error"], "err_code") in _NOT_FOUND:
            return None
        raise error

    async def _call(
        self, name: str, body: dict[str, object] | None
    ) -> tuple[dict[str, Any], LinkError | None]:
        answer = await self.ask(f"$JS.API.{name}", json.dumps(body).encode() if body else b"")
        try:
            reply = json_object(answer.data)
        except ValueError as error:
            raise UnavailableError(f"{name}: the answer cannot be read ({error})") from error
        details = reply.get("error")
        return reply, _api_error(name, details) if details else None

    async def apply_stream(self, wanted: dict[str, object]) -> bool:
        """Make the stream as declared; True when something changed.

        Raises LinkError when an existing stream differs in what cannot be changed.
        """
        name = wanted["name"]
        info = await self.find(f"STREAM.INFO.{name}")
        if info is None:
            await self.api(f"STREAM.CREATE.{name}", wanted)
            return True
        config = _config_of(info)
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
        info = await self.find(f"CONSUMER.INFO.{stream}.{name}")
        config = _config_of(info) if info else {}
        if info and all(config.get(key) == value for key, value in wanted.items()):
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
        answers = AnswerQueue(f"$JS.API.DIRECT.GET.{stream}")
        newest: dict[str, Incoming] = {}
        try:
            for subject in subjects:
                token = self._new_token()
                asked[token], self._replies[token] = subject, answers
                answers.subject = f"$JS.API.DIRECT.GET.{stream}.{subject}"
                await self._link.send(answers.subject, b"", reply=f"{self._link.inbox}.api.{token}")
            async with asyncio.timeout(timeout_seconds):
                for _ in asked:
                    answer = await answers.get()
                    subject = asked.get(answer.subject.rsplit(".", 1)[-1], "")
                    if answer.headers.keys() >= _STAMP and answer.headers[SUBJECT] == subject:
                        newest[subject] = answer
                    elif answer.status != "404":
                        raise _unread(stream, answer)
        except TimeoutError as error:
            denied = self._link.denial(answers.subject)
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
        if end.status not in {"204", "404"}:
            raise _unread(stream, end)
        return stored

    async def collect(
        self, subject: str, body: bytes, timeout_seconds: float = 5.0
    ) -> tuple[list[Incoming], Incoming]:
        """Stored messages sent in answer to one request, and the answer that ends them."""
        stored: list[Incoming] = []
        async with self._conversation(subject) as (reply, queue):
            await self._link.send(subject, body, reply=reply)
            try:
                async with asyncio.timeout(timeout_seconds):
                    while (message := await queue.get()).headers.keys() >= _STAMP:
                        stored.append(message)
            except TimeoutError as error:
                denied = self._link.denial(subject)
                raise denied or UnavailableError(f"no answer on {subject}") from error
        if message.status == ENDED:
            denied = self._link.denial(subject)
            raise denied or UnavailableError(f"no answer on {subject}: {message.description}")
        return stored, message


def _unread(stream: str, answer: Incoming) -> UnavailableError:
    why = answer.description or f"status {answer.status}"
    return UnavailableError(
        f"stream {stream} cannot be read now ({printable(why)})",
        remedy="run `setsuden cloud streams`, or grant its subjects"
        if answer.status == "503"
        else "",
    )


def _api_error(name: str, details: object) -> LinkError:
    description = details.get("description") if isinstance(details, dict) else None
    text = f"{name}: {printable(str(description))} ({_code(details, 'err_code')})"
    code, remedy = _code(details, "code"), _REMEDIES.get(_code(details, "err_code"), "")
    if code == 403:
        return ForbiddenError(text, remedy=remedy)
    kind = UnavailableError if code in _TRY_AGAIN else LinkError
    return kind(text, remedy=remedy)


def _code(details: object, name: str) -> int:
    value = details.get(name) if isinstance(details, dict) else None
    return value if type(value) is int else 0


def _config_of(described: dict[str, Any]) -> dict[str, Any]:
    config = described.get("config")
    if not isinstance(config, dict):
        raise UnavailableError("the description of a stream or consumer has no configuration")
    return config
