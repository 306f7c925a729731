"""OTLP protobuf written by hand: what no encoder of ours would make."""

from __future__ import annotations

import gzip
import time

NOW = time.time_ns()


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def field(number: int, value: bytes) -> bytes:
    """A field with a length."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed(number: int, value: int) -> bytes:
    """A field of eight bytes."""
    return varint(number << 3 | 1) + value.to_bytes(8, "little")


def pair(key: str, value: bytes | str) -> bytes:
    """A ``KeyValue``; bytes are a whole ``AnyValue``."""
    text = field(1, value.encode()) if isinstance(value, str) else value
    return field(1, key.encode()) + field(2, text)


def traces(*spans: bytes, resource: bytes | None = None) -> bytes:
    """A ``TracesData`` of one group, by default of the device ``dev-1``."""
    if resource is None:
        named = (("service.name", "edge-agent"), ("device.id", "dev-1"))
        resource = b"".join(field(1, pair(*one)) for one in named)
    scope = field(1, field(1, b"setsuden")) + b"".join(field(2, span) for span in spans)
    return field(1, field(1, resource) + field(2, scope))


def span(more: bytes = b"", *, identity: int = 1, name: str = "event") -> bytes:
    """A span of now, with whatever stands behind it."""
    return (
        field(1, identity.to_bytes(16, "big"))
        + field(2, identity.to_bytes(8, "big"))
        + field(5, name.encode())
        + b"\x30\x02"
        + fixed(7, NOW)
        + fixed(8, NOW)
        + more
    )


def nested(depth: int) -> bytes:
    """An ``AnyValue`` of lists in lists."""
    value = b""
    for _ in range(depth):
        value = field(5, field(1, value))
    return value


def packed(data: bytes) -> bytes:
    """As one gzip member."""
    return gzip.compress(data, mtime=0)
