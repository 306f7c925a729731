"""Bytes on a socket to a server of ours, for what no HTTP client would send."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import NamedTuple

LOCAL = b"Host: localhost\r\n"


class Answer(NamedTuple):
    """What came back until the other end closed or went silent."""

    status: int
    """0 when no answer came."""
    text: str
    closed: bool


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A connection."""
    return socket.create_connection((host, port), timeout=30)


def read_all(connection: socket.socket, seconds: float = 20.0) -> Answer:
    """Read until the other end closes, or sends nothing for so long."""
    connection.settimeout(seconds)
    parts, closed = [], True
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except TimeoutError:
        closed = False
    except OSError:
        pass
    text = b"".join(parts).decode("latin-1")
    status = int(text.split(" ", 2)[1]) if text.startswith("HTTP/1.1 ") else 0
    return Answer(status, text, closed)


def say(port: int, data: bytes, *, host: str = "127.0.0.1", seconds: float = 20.0) -> Answer:
    """Send these bytes on a connection of their own; a server may stop reading at any point."""
    with connected(port, host) as connection:
        with suppress(OSError):
            connection.sendall(data)
        return read_all(connection, seconds)


def get(
    port: int, path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1"
) -> Answer:
    """One request with these header lines; a Host is added when there is none."""
    lines = [f"{method} {path} HTTP/1.1", *headers, "Connection: close"]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("Host: localhost")
    return say(port, ("\r\n".join(lines) + "\r\n\r\n").encode(), host=host)


def post(port: int, path: str, body: bytes, *headers: str) -> Answer:
    """One POST with these header lines beside its length and a local Host."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body)}")
    return say(port, ("\r\n".join(lines) + "\r\n\r\n").encode() + body)
