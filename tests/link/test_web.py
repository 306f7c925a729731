"""One HTTP request: proxies, redirects, bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from setsuden.link import web


class _Server(ThreadingHTTPServer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status, self.body, self.location = 200, b"", ""
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()
        self.wfile.write(self.server.body)

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
    web.get("http://collector.example/v1", limit=9, timeout=5)
    assert proxy.asked == ["http://collector.example/v1"]


def test_this_machine_is_asked_directly(proxy: _Server, server: _Server) -> None:
    for direct in (False, True):
        web.get(f"{server.url}/varz", limit=9, timeout=5, direct=direct)
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


def test_redirect_is_not_followed(server: _Server, proxy: _Server) -> None:
    server.status, server.location = 302, f"{proxy.url}/elsewhere"
    with pytest.raises(web.WebError, match="redirect") as refused:
        web.get(server.url, limit=9, timeout=5, headers={"Authorization": "Bearer secret"})
    assert refused.value.status == 302
    assert proxy.asked == []


def test_answer_may_be_as_long_as_the_limit_and_no_longer(server: _Server) -> None:
    server.body = b"123456789"
    assert web.get(server.url, limit=9, timeout=5) == server.body
    with pytest.raises(web.AnswerTooLongError, match="longer than 8 bytes"):
        web.get(server.url, limit=8, timeout=5)


def test_refusal_keeps_its_status_and_the_beginning_of_its_text(server: _Server) -> None:
    server.status, server.body = 422, b"no such field"
    with pytest.raises(web.WebError, match="status 422") as refused:
        web.get(server.url, limit=7, timeout=5)
    assert (refused.value.status, refused.value.body) == (422, b"no such")


def test_error_shows_nothing_of_the_address() -> None:
    with pytest.raises(web.WebError) as refused:
        web.get("http://127.0.0.1:9/?password=secret", limit=9, timeout=5)
    assert "secret" not in str(refused.value)
    assert refused.value.status == 0


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_nothing_but_http_is_spoken(scheme: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key", encoding="ascii")
    with pytest.raises(web.WebError, match="neither http:// nor https://"):
        web.get(f"{scheme}://{secret}", limit=100, timeout=1)
