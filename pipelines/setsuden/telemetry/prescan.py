"""Counts the parts of a protobuf message of unknown origin, before it is parsed.

An empty group is two bytes on the wire and sixty in memory: a message of a megabyte would become
thirty, and its sender may send as many as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from setsuden.schemas.errors import TraceDataError

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_WIRE: Final = {
    **dict.fromkeys((3, 4, 5, 8, 13, 14, 17, 18), _VARINT),
    **dict.fromkeys((1, 6, 16), _EIGHT_BYTES),
    **dict.fromkeys((2, 7, 15), _FOUR_BYTES),
    **dict.fromkeys((9, 11, 12), _LENGTH),
}
"""Wire type by the number of a field's type (descriptor.proto)."""
_MORE: Final = 0x80
"""A byte of a varint from here on has another behind it."""
_LONGEST_NUMBER: Final = 10
"""Bytes of a varint."""

LEAVES: Final = frozenset({"KeyValue"})
"""Not looked into: what they hold is a quarter of a message's parts and three quarters of the
scan's time. The bound of a message's bytes is theirs too."""

Plan = Mapping[int, "Plan | None"]
"""By tag: None for a value that is not looked into, else the plan of the message it holds."""


def plan_of(descriptor: Any, leaves: frozenset[str]) -> Plan:
    """The plan of a message type; messages named in ``leaves`` are not looked into."""
    plan: dict[int, Plan | None] = {}
    for field in descriptor.fields:
        inner = field.message_type
        descends = inner is not None and inner.name not in leaves
        plan[field.number << 3 | _WIRE[field.type]] = plan_of(inner, leaves) if descends else None
        if field.is_repeated and inner is None:
            plan[field.number << 3 | _LENGTH] = None  # packed
    return plan


def check(data: bytes, plan: Plan, most: int) -> None:
    """Nothing when the plan knows every field and at most ``most`` of them have a length.

    Raises TraceDataError otherwise, as soon as it is known; the work is bounded by ``most`` and by
    the size of the data.
    """
    try:
        _walk(data, plan, most)
    except IndexError as error:
        raise TraceDataError("no OTLP data: cut short") from error
    except KeyError as error:
        raise TraceDataError(f"no OTLP data: a field with tag {error}") from error


def _walk(data: bytes, plan: Plan, most: int) -> None:
    waiting, left = [(0, len(data), plan)], most
    while waiting:
        at, end, plan = waiting.pop()
        while at < end:
            tag = data[at]  # nearly every tag and length is one byte: no call for those
            tag, at = (tag, at + 1) if tag < _MORE else _number(data, at)
            inner, wire = plan[tag], tag & 7
            if wire == _LENGTH:
                size = data[at]
                size, at = (size, at + 1) if size < _MORE else _number(data, at)
                left -= 1
                if left < 0:
                    raise TraceDataError(f"over {most} parts")
                if inner is not None:
                    waiting.append((at, at + size, inner))
                at += size
            elif wire == _VARINT:
                at = _number(data, at)[1]
            else:
                at += 8 if wire == _EIGHT_BYTES else 4
        if at != end:
            raise TraceDataError("no OTLP data: cut short")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends; raises IndexError past the end."""
    number = shift = 0
    for place in range(at, at + _LONGEST_NUMBER):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < _MORE:
            return number, place + 1
        shift += 7
    raise TraceDataError("no OTLP data: a number of over ten bytes")
