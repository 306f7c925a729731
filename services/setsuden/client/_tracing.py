"""The client's span, in an application that uses OpenTelemetry.

An application that has set OpenTelemetry up has imported ``opentelemetry.trace``. Then each
submission is a span ``setsuden.submit`` of kind PRODUCER, made by the application's own tracer
provider below the span that is current, and the event carries the span's context: the agent's,
the broker's and the worker's spans are in the application's trace. In any other application
nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from setsuden.schemas import trace_context

SPAN_NAME = "setsuden.submit"


class TraceHeaders(NamedTuple):
    """The W3C headers that an event carries."""

    traceparent: str | None = None
    tracestate: str | None = None


@contextmanager
def submit_span(
    pipeline: str, device: str | None, traceparent: str | None
) -> Iterator[TraceHeaders]:
    """Runs the block in the span and yields the event's trace headers.

    A ``traceparent`` given by the application is sent as it is, and no span is made.
    """
    if traceparent is not None or "opentelemetry.trace" not in sys.modules:
        yield TraceHeaders(traceparent)
        return
    from opentelemetry import trace  # noqa: PLC0415  # the application has imported it

    attributes = {"messaging.system": "nats", "setsuden.pipeline": pipeline}
    if device is not None:
        attributes["setsuden.device"] = device
    tracer = trace.get_tracer("setsuden.client")
    with tracer.start_as_current_span(
        SPAN_NAME, kind=trace.SpanKind.PRODUCER, attributes=attributes
    ) as span:
        context = span.get_span_context()
        if not context.is_valid:  # no provider is set up and no span is current
            yield TraceHeaders()
            return
        state = context.trace_state.to_header()
        yield TraceHeaders(
            trace_context.traceparent(
                f"{context.trace_id:032x}",
                f"{context.span_id:016x}",
                sampled=context.trace_flags.sampled,
            ),
            state if trace_context.can_be_passed_on("tracestate", state) else None,
        )
