"""The part of MQTT 3.1.1 that listens to one topic at quality of service 0.

Section numbers are those of the OASIS standard of 2014. A library would be a dependency of every
device for sixty lines of protocol.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from setsuden.energy.protocols.numbers import MAX_BYTES

KEEPALIVE_SECONDS = 30.0
"""We speak up as often, and a broker that is silent for twice as long is gone."""
CONNECT_SECONDS = 5.0
_STEP_SECONDS = 0.2
"""How soon a listener notices that it should stop."""
CONNACK, PUBLISH, SUBACK, PINGREQ, DISCONNECT = 0x20, 0x30, 0x90, b"\xc0\x00", b"\xe0\x00"
_RETAINED = 0x01
_REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it refuses our client id",
    3: "it is not ready",
    4: "it refuses user and password",
    5: "it does not let us in",
}
"""CONNACK return codes (3.2.2.3)."""


@dataclass(frozen=True, slots=True)
class Topic:
    """``mqtt://user:password@host:1883/a/topic``, taken apart."""

    host: str
    port: int
    name: str
    user: str | None = None
    password: str | None = None
    secure: bool = False

    @classmethod
    def of(cls, url: str) -> Topic:
        """Raises ValueError for no topic, or for a pattern instead of one."""
        parts = urlsplit(url)
        name = unquote(parts.path.removeprefix("/"))
        if not name or not parts.hostname:
            raise ValueError("the address names no topic: mqtt://host:1883/topic")
        if set(name) & set("+#\0"):
            raise ValueError("the topic is a pattern: one meter has one topic")
        secure = parts.scheme == "mqtts"
        return cls(
            parts.hostname,
            parts.port or (8883 if secure else 1883),
            name,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
            secure,
        )


class Packet(NamedTuple):
    """One control packet: first byte and what follows its length."""

    kind: int
    body: bytes


def listen(topic: Topic, heard: Callable[[bytes], None], stop: threading.Event) -> None:
    """Call ``heard`` with every payload until the event is set; raises OSError when cut off.

    Retained messages are skipped: the broker keeps them for days and nothing in them tells when
    they were measured.
    """
    with _connected(topic) as connection:
        reader = _Reader(connection)
        connection.sendall(connect_packet(topic))
        _welcomed(reader.next(CONNECT_SECONDS))
        connection.sendall(subscribe_packet(topic.name))
        _heard_until(reader, connection, heard, stop)
        connection.sendall(DISCONNECT)


def _connected(topic: Topic) -> socket.socket:
    plain = socket.create_connection((topic.host, topic.port), timeout=CONNECT_SECONDS)
    if not topic.secure:
        return plain
    from setsuden.energy.protocols.web import tls  # noqa: PLC0415  # 25 ms that plain connections need not pay

    return tls().wrap_socket(plain, server_hostname=topic.host)


def _welcomed(packet: Packet | None) -> None:
    if packet is None or packet.kind != CONNACK or len(packet.body) != 2:
        raise OSError("no MQTT broker answers there")
    if code := packet.body[1]:
        raise OSError(_REFUSALS.get(code, f"it refuses us with code {code}"))


def _heard_until(
    reader: _Reader,
    connection: socket.socket,
    heard: Callable[[bytes], None],
    stop: threading.Event,
) -> None:
    last = spoke = time.monotonic()
    while not stop.is_set():
        packet = reader.next(_STEP_SECONDS)
        now = time.monotonic()
        if packet is not None:
            last = now
            _take(packet, heard)
        if now - spoke > KEEPALIVE_SECONDS / 2:
            spoke = now
            connection.sendall(PINGREQ)
        if now - last > 2 * KEEPALIVE_SECONDS:
            raise OSError("the broker has fallen silent")


def _take(packet: Packet, heard: Callable[[bytes], None]) -> None:
    if packet.kind == SUBACK and packet.body[2:] == b"\x80":
        raise OSError("the broker does not let us read this topic")
    if packet.kind & 0xF0 == PUBLISH and not packet.kind & _RETAINED:
        heard(payload(packet))


def payload(packet: Packet) -> bytes:
    """What a PUBLISH carries (3.3); raises OSError for a broken one."""
    length = int.from_bytes(packet.body[:2], "big")
    start = 2 + length + (2 if packet.kind & 0x06 else 0)
    if start > len(packet.body):
        raise OSError("the broker sent a broken message")
    return packet.body[start:]


def connect_packet(topic: Topic) -> bytes:
    """CONNECT with a clean session (3.1)."""
    user, password = topic.user is not None, topic.password is not None
    flags = 0x02 | (0x80 if user else 0) | (0x40 if user and password else 0)
    head = text("MQTT") + bytes((4, flags)) + int(KEEPALIVE_SECONDS).to_bytes(2, "big")
    tail = text(f"setsuden-{secrets.token_hex(4)}")
    if topic.user is not None:
        tail += text(topic.user)
        tail += text(topic.password) if topic.password is not None else b""
    return framed(0x10, head + tail)


def subscribe_packet(name: str) -> bytes:
    """SUBSCRIBE to one topic at quality of service 0 (3.8)."""
    return framed(0x82, b"\x00\x01" + text(name) + b"\x00")


def text(value: str) -> bytes:
    """A string with its length (1.5.3)."""
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def framed(kind: int, body: bytes) -> bytes:
    """A packet: first byte, length in groups of 7 bits (2.2.3), body."""
    left, length = len(body), bytearray()
    while True:
        left, digit = left >> 7, left & 0x7F
        length.append(digit | (0x80 if left else 0))
        if not left:
            return bytes((kind,)) + bytes(length) + body


class _Reader:
    """Packets out of a stream."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def next(self, seconds: float) -> Packet | None:
        """The next packet, or None when none is whole in time; raises OSError at the end."""
        deadline = time.monotonic() + seconds
        while (packet := unframed(self._buffer)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._connection.settimeout(left)
            try:
                data = self._connection.recv(4096)
            except TimeoutError:
                return None
            if not data:
                raise OSError("the broker closed the connection")
            self._buffer += data
        return packet


def unframed(buffer: bytearray) -> Packet | None:
    """Take the first whole packet out of the buffer; raises OSError for one that is too long."""
    length, shift = 0, 0
    for digit in buffer[1:5]:
        length |= (digit & 0x7F) << shift
        shift += 7
        if length > MAX_BYTES:
            raise OSError(f"a message is longer than {MAX_BYTES} bytes")
        if not digit & 0x80:
            return _cut(buffer, 1 + shift // 7, length)
    if len(buffer) >= 5:
        raise OSError("the broker sent a broken length")
    return None


def _cut(buffer: bytearray, start: int, length: int) -> Packet | None:
    if len(buffer) < start + length:
        return None
    packet = Packet(buffer[0], bytes(buffer[start : start + length]))
    del buffer[: start + length]
    return packet
