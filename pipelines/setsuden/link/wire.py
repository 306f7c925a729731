"""What a connection put on the wire, as the kernel counts it: encryption and repeats included."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

_SIZE = 208
"""``struct tcp_info`` of linux/tcp.h up to ``tcpi_bytes_sent`` (4.19 and newer)."""
_ACKED, _SEGMENTS, _SENT = 120, 136, 200


class Wire(NamedTuple):
    """Totals of TCP, both ways."""

    bytes_sent: int = 0
    """Payload, repetitions included."""
    bytes_received: int = 0
    packets: int = 0
    """Segments both ways, bare acknowledgements included: 40 bytes of headers each."""

    def plus(self, other: Wire) -> Wire:
        """The sum."""
        return Wire(*(mine + its for mine, its in zip(self, other, strict=True)))


def of_socket(sock: Any) -> Wire | None:
    """The totals of one TCP socket; None where the kernel does not tell."""
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    except (OSError, ValueError):
        return None
    if len(info) < _SEGMENTS + 8:
        return None
    acked, received = struct.unpack_from("=QQ", info, _ACKED)
    segments_out, segments_in = struct.unpack_from("=II", info, _SEGMENTS)
    sent = struct.unpack_from("=Q", info, _SENT)[0] if len(info) >= _SENT + 8 else acked
    return Wire(sent, received, segments_out + segments_in)
