"""Devices that speak HTTP, as servers of this process; and a clock whose intervals we end."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from setsuden.energy.domain import Reading, Sensor
from setsuden.energy.host.system import Clock

EPOCH_NS = 1_700_000_000 * 10**9


class Device:
    """What it answers next, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        """Path and Authorization of each question."""
        self.go = threading.Event()
        """While it is not set, questions hang."""
        self.go.set()
        self.url = ""

    def says(self, body: str) -> None:
        """From now on."""
        self.body = body.encode()


@contextmanager
def device(certificate: Path | None = None) -> Iterator[Device]:
    """A device on a free port; with a certificate (and its key in one file) it speaks TLS."""
    found = Device()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers["Authorization"]))
            found.go.wait(10)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    found.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.go.set()
        server.shutdown()
        thread.join()
        server.server_close()


class SteppedClock(Clock):
    """Time that stands until the test lets it pass; who waits goes on when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self._turns = threading.Semaphore(0)

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return EPOCH_NS + self.now_ns

    def wait(self, event: threading.Event, seconds: float) -> bool:
        while not event.is_set() and not self._turns.acquire(timeout=0.01):
            pass
        return event.is_set()

    def passes(self, seconds: float) -> None:
        """So much later."""
        self.now_ns += round(seconds * 1e9)

    def turn(self) -> None:
        """Who waits, waits no longer."""
        self._turns.release()


def until(sensor: Sensor, true: Callable[[Reading], bool], seconds: float = 20.0) -> Reading:
    """The first reading of the first domain of which it is true."""
    pause = threading.Event()
    for _ in range(round(seconds / 0.01)):
        reading = sensor.read()[0]
        if true(reading):
            return reading
        pause.wait(0.01)
    raise AssertionError(reading)


def has_value(reading: Reading) -> bool:
    """There is one."""
    return reading.value is not None


def has_problem(*words: str) -> Callable[[Reading], bool]:
    """There is one with these words in it."""
    return lambda reading: all(word in (reading.problem or "") for word in words)
