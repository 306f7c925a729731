"""Clients that answer from a function: no broker, no agent, no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from setsuden.client import AsyncClient, Client
from setsuden.client._aio import MAX_OPEN_HANDLES, SUBMIT_TIMEOUT_SECONDS
from setsuden.client._pending import PendingSubmission
from setsuden.schemas import subjects
from setsuden.schemas.errors import RejectedError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Answer, Result, Status, Tier
from setsuden.schemas.trace_context import parse_traceparent

Answers = Answer | Mapping[Status, Answer | None]
"""One final answer; or every update of the event by its status, in the order of arrival.

``{Status.PROVISIONAL: guess, Status.FINAL: answer}`` is a hard case, ``{Status.DEAD: None}`` one
that nobody could answer, ``{}`` one whose answer never arrives.
"""
AnswerEvent = Callable[[Event], Answers]
"""What a fake client asks. A RejectedError that it raises is raised by ``result``, as the refusal
of an agent; any other error by ``submit``."""
_EPOCH = "00000000"
_FROM_THE_CLOUD = frozenset({Status.FINAL, Status.SUPERSEDED})


class FakeAsyncClient(AsyncClient):
    """An :class:`~setsuden.client.AsyncClient` that gets its answers from ``answer``."""

    def __init__(
        self,
        answer: AnswerEvent,
        *,
        device: str | None = None,
        name: str = "client",
        submit_timeout_seconds: float = SUBMIT_TIMEOUT_SECONDS,
        max_open_handles: int = MAX_OPEN_HANDLES,
    ) -> None:
        super().__init__(
            device=device,
            name=name,
            submit_timeout_seconds=submit_timeout_seconds,
            max_open_handles=max_open_handles,
        )
        self.events: list[Event] = []
        """Every event that was submitted, in order; a repeated one each time."""
        self._answer = answer
        self._results: dict[tuple[str, str], list[Result]] = {}

    async def _connect(self) -> None:
        """There is nothing to connect to."""

    async def _disconnect(self) -> None:
        """There is nothing to disconnect from."""

    async def _deliver(self, pending: PendingSubmission) -> None:
        """Answer the event; a repeated key gets the last result of its first event."""
        event = pending.event
        if event is None:
            return
        self.events.append(event)
        loop = asyncio.get_running_loop()
        key = (event.device, event.key)
        if key in self._results:
            results = self._results[key][-1:]
        else:
            event_id = subjects.event_id(event.device, _EPOCH, len(self._results) + 1)
            try:
                results = list(_results_of(event, event_id, self._answer(event)))
            except RejectedError as error:
                loop.call_soon(pending.fail, error)
                return
            self._results[key] = results
        for result in results:
            loop.call_soon(pending.on_update, result)


class FakeClient(Client):
    """A :class:`~setsuden.client.Client` that gets its answers from ``answer``.

    ``answer`` runs in the client's thread.
    """

    def __init__(
        self,
        answer: AnswerEvent,
        *,
        device: str | None = None,
        name: str = "client",
        submit_timeout_seconds: float = SUBMIT_TIMEOUT_SECONDS,
        max_open_handles: int = MAX_OPEN_HANDLES,
    ) -> None:
        super().__init__()
        self._client = self._fake = FakeAsyncClient(
            answer,
            device=device,
            name=name,
            submit_timeout_seconds=submit_timeout_seconds,
            max_open_handles=max_open_handles,
        )

    @property
    def events(self) -> list[Event]:
        """Every event that was submitted, in order; a repeated one each time."""
        return self._fake.events


def _results_of(event: Event, event_id: str, answers: Answers) -> Iterator[Result]:
    updates = {Status.FINAL: answers} if isinstance(answers, Answer) else answers
    context = parse_traceparent(event.traceparent)
    hard = Status.PROVISIONAL in updates
    for status, answer in updates.items():
        yield Result(
            event_id=event_id,
            pipeline=event.pipeline,
            device=event.device,
            status=status,
            tier=Tier.CLOUD if hard and status in _FROM_THE_CLOUD else Tier.EDGE,
            answer=answer,
            source_id=event.id,
            idempotency_key=event.idempotency_key,
            trace_id=context.trace_id if context else event.trace_id or "",
            at=datetime.now(UTC),
        )
