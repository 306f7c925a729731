"""HTTP goes through the environment's proxy, but never to this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from setsuden.link import web


class _Server(ThreadingHTTPServer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    running = _Server()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    running = _Server()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, running.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield running
    running.shutdown()
    running.server_close()


def test_an_address_elsewhere_is_asked_through_the_proxy(proxy: _Server) -> None:
    web.opener().open("http://collector.example/v1", timeout=5).close()
    assert proxy.asked == ["http://collector.example/v1"]


def test_this_machine_is_asked_directly(proxy: _Server, server: _Server) -> None:
    for opener in (web.opener(), web.direct()):
        opener.open(f"{server.url}/varz", timeout=5).close()
    assert server.asked == ["/varz", "/varz"]
    assert proxy.asked == []


@pytest.mark.parametrize(
    "place", ["localhost", "localhost:80", "127.9.9.9", "[::1]:8", "a.localhost"]
)
def test_loopback_is_known_without_a_look_up(place: str) -> None:
    assert web.is_loopback(place)


@pytest.mark.parametrize(
    "place", ["localhost.example", "10.0.0.1:80", "[fe80::1]", "", "127.example"]
)
def test_elsewhere_is_not_loopback(place: str) -> None:
    assert not web.is_loopback(place)
