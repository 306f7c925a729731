"""Events as a client asks them: names, ids and headers."""

from __future__ import annotations

import secrets

from setsuden.schemas import subjects
from setsuden.schemas.errors import InvalidEventError
from setsuden.schemas.escalation import MSG_ID_HEADER
from setsuden.schemas.event import Event
from setsuden.schemas.trace_context import parse_traceparent

MAX_DEADLINE_SECONDS = 10 * 365 * 86_400.0


def fresh_id() -> str:
    """32 hex digits that nobody can guess, as a trace id wants them."""
    return secrets.token_hex(16)


def ttl_ms(deadline: float | None) -> int | None:
    """Whole milliseconds of a deadline in seconds; raises InvalidEventError.

    It travels as a duration, so that the application's clock need not agree with the device's.
    """
    if deadline is None:
        return None
    if not deadline > 0:
        raise InvalidEventError(
            f"a deadline in {deadline} s has passed", field="deadline", remedy="give seconds > 0"
        )
    if not deadline <= MAX_DEADLINE_SECONDS:
        raise InvalidEventError(
            f"a deadline in {deadline} s is out of range", field="deadline", remedy="leave it out"
        )
    return max(1, round(deadline * 1000))


def trace_ids(traceparent: str | None) -> tuple[str, str | None]:
    """(the trace id the agent will use, the one it must be told since there is no context)."""
    context = parse_traceparent(traceparent)
    if context is not None:
        return context.trace_id, None
    chosen = fresh_id()
    return chosen, chosen


def key_of(given: str | None) -> str:
    """The application's idempotency key, else one of our own: any event may be asked again."""
    return fresh_id() if given is None else given


def device_of(given: str | None, default: str | None) -> str:
    """The device an event belongs to; raises InvalidEventError."""
    device = given or default
    if device is None:
        raise InvalidEventError(
            "no device is named", field="device", remedy="name it at submit or for the client"
        )
    return subjects.token(device, "device")


def message_headers(
    event: Event, application: str, nonce: str, token: str, copy: int
) -> dict[str, str]:
    """Headers of one copy of an event: same key, but an id and a reply subject of its own."""
    name = f"{token}-{copy}" if copy else token
    headers = event.headers()
    prefix = subjects.reply_prefix(application, event.device, nonce)
    headers["ce-reply"] = f"{prefix}.{name}"
    headers[MSG_ID_HEADER] = f"{nonce}-{name}"
    return headers


def inquiry_of(subject: str) -> tuple[str, int]:
    """(token, copy) at the end of a reply subject."""
    token, _, copy = subject.rsplit(".", 1)[-1].partition("-")
    return token, int(copy) if copy.isdigit() else 0
