"""A span read back, with who made it and where it was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from setsuden.telemetry.span import Span, Value

WARNINGS = "@jaeger@warnings"
"""The attribute in which Jaeger says what it thinks of a span."""


class FoundSpan(NamedTuple):
    """One span of one process, read from somewhere."""

    resource: Mapping[str, Value]
    span: Span
    place: str = ""
    """File and line, or address."""

    @property
    def service(self) -> str:
        """Who made it."""
        return str(self.resource.get("service.name", "unknown"))

    @property
    def ms(self) -> float:
        """Its duration, milliseconds."""
        return (self.span.end_ns - self.span.start_ns) / 1e6

    @property
    def key(self) -> tuple[str, str]:
        """Trace id and span id."""
        return self.span.trace_id, self.span.span_id

    @property
    def warned(self) -> bool:
        """True when Jaeger added a warning."""
        return WARNINGS in self.span.attributes

    def same_as(self, other: FoundSpan) -> bool:
        """True for an identical copy, wherever it was found and whatever Jaeger says of it."""
        ours, theirs = _unwarned(self.span), _unwarned(other.span)
        return ours == theirs and self.resource == other.resource

    def number(self, key: str) -> float | None:
        """The number of an attribute; None when it is missing or none."""
        value = self.span.attributes.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value)

    def text(self, key: str) -> str | None:
        """An attribute as text; None when it is missing."""
        value = self.span.attributes.get(key)
        return None if value is None else str(value)

    def flag(self, key: str) -> bool | None:
        """The truth of an attribute; None when it is missing or none."""
        value = self.span.attributes.get(key)
        return value if isinstance(value, bool) else None


def _unwarned(span: Span) -> Span:
    # Jaeger 2.13 repeats a warning with every answer, so two answers about one span differ.
    if WARNINGS not in span.attributes:
        return span
    kept = {key: value for key, value in span.attributes.items() if key != WARNINGS}
    return span._replace(attributes=kept)
