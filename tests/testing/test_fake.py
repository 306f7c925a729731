"""What the fake client of testing does beyond the contract."""

from __future__ import annotations

import textwrap

import pytest

import setsuden.testing
from setsuden.client import Answer, ForbiddenError, Status, Tier
from setsuden.testing import Event, FakeAsyncClient, FakeClient

SURE = Answer(label="worn", index=1, confidence=0.97)
UNSURE = Answer(label="normal", index=0, confidence=0.4)


def test_the_example_of_the_package_runs() -> None:
    _, _, indented = (setsuden.testing.__doc__ or "").partition("::\n\n")
    example, _, _ = indented.partition("\n:class:")
    exec(compile(textwrap.dedent(example), "example", "exec"), {})  # noqa: S102  # ours


def test_an_answer_alone_is_the_students() -> None:
    with FakeClient(lambda _: SURE, device="d") as client:
        result = client.submit("p", b"x").result(timeout=5)
    assert (result.status, result.tier, result.answer) == (Status.FINAL, Tier.EDGE, SURE)


async def test_the_final_answer_to_a_hard_case_is_the_clouds() -> None:
    def answer(event: Event) -> dict[Status, Answer | None]:
        return {Status.PROVISIONAL: UNSURE, Status.FINAL: SURE}

    async with FakeAsyncClient(answer, device="d") as client:
        updates = [update async for update in await client.submit("p", b"x")]
    assert [(update.tier, update.answer) for update in updates] == [
        (Tier.EDGE, UNSURE),
        (Tier.CLOUD, SURE),
    ]


def test_it_keeps_the_submitted_events() -> None:
    with FakeClient(lambda _: SURE, device="d") as client:
        client.submit("p", b"x", priority=7, idempotency_key="k")
        client.submit("p", b"x", idempotency_key="k")
        assert [(event.data, event.priority) for event in client.events] == [(b"x", 7), (b"x", 0)]


async def test_an_error_of_the_link_is_raised_by_submit() -> None:
    def answer(event: Event) -> Answer:
        raise ForbiddenError("not with these credentials")

    async with FakeAsyncClient(answer, device="d") as client:
        with pytest.raises(ForbiddenError) as caught:
            await client.submit("p", b"x")
    assert caught.value.trace_id is not None
