"""Local HTTP: who may ask, what is bounded, and that health answers whatever others do."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support import wire
from tests.support.agent import AgentProcess, config

from setsuden.edge_agent.config import HttpOptions
from setsuden.edge_agent.hosts import is_loopback, name_of
from setsuden.edge_agent.ingress import compression, guard, json_tensor
from setsuden.edge_agent.ingress.connection import HEAD_SECONDS, WRITE_SECONDS
from setsuden.edge_agent.ingress.request import BODY_SECONDS, HttpRequest
from setsuden.edge_agent.ingress.server import HttpServer
from setsuden.pipelines import codec
from setsuden.schemas.bundle import ITEM_BYTES, DType, Observation
from setsuden.schemas.errors import ConfigError, InvalidTensorError, RequestRefusedError
from setsuden.schemas.event import Event

EASY = bytes(784)
EVENT = ("content-type: application/octet-stream", "ce-source: s", "ce-id: 1")
ANSWER_ALL = "gate = { threshold = 0.0 }"
ESCALATE_ALL = "gate = { threshold = 1.0 }"
TOKEN = "0123456789abcdef" * 2
TOKEN_FILE = "token"  # noqa: S105  # a file's name
Start = Callable[..., AgentProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts agents, and kills what is left of them."""
    started: list[AgentProcess] = []

    def begin(**options: Any) -> AgentProcess:
        agent = AgentProcess(tmp_path / "agent", config(**options))
        started.append(agent)
        agent.start(link=False)
        return agent

    yield begin
    for agent in started:
        agent.kill()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent that answers everything itself, for whoever does it no lasting harm."""
    running = AgentProcess(tmp_path_factory.mktemp("http"), config(pipeline_extra=ANSWER_ALL))
    running.start(link=False)
    yield running
    running.kill()


def body_of(answer: wire.Answer) -> dict[str, Any]:
    return dict(json.loads(answer.text.split("\r\n\r\n", 1)[1]))


# -- who may ask ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/events/x-1", "/v2"])
@pytest.mark.parametrize(
    "header",
    [
        "Host: evil.example",
        "Host: evil.example:8787",
        "Host: localhost.evil.example",
        "Host: 192.0.2.7",
        "Host: 127.0.0.1.evil.example",
        "Host: 0.0.0.0",
        "Host: ",
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Origin: ",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: anything",
    ],
)
def test_a_page_of_another_site_is_refused(agent: AgentProcess, path: str, header: str) -> None:
    answer = wire.get(agent.port, path, header)
    assert answer.status == 403
    assert "pipelines" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: localhost",),
        ("Host: LOCALHOST:1",),
        ("Host: localhost.",),
        ("Host: 127.0.0.1:8787",),
        ("Host: 127.0.0.9",),
        ("Host: [::1]:8787",),
        ("Host: localhost:8787", "Origin: http://localhost:8787"),
        ("Sec-Fetch-Site: none",),
        ("Sec-Fetch-Site: same-origin",),
    ],
)
def test_the_device_itself_is_let_in(agent: AgentProcess, headers: tuple[str, ...]) -> None:
    assert wire.get(agent.port, "/readyz", *headers).status == 200


def test_a_client_of_http_1_0_needs_no_host(agent: AgentProcess) -> None:
    assert wire.say(agent.port, b"GET /livez HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "Text/Plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
    ],
)
def test_what_a_form_can_send_is_no_event(agent: AgentProcess, content_type: str) -> None:
    headers = [f"content-type: {content_type}"] if content_type else []
    before = agent.metric("setsuden_accepted_events_total")
    answer = wire.post(agent.port, "/events", EASY, *EVENT[1:], *headers)
    assert answer.status == 415
    assert "content-type: application/octet-stream" in body_of(answer)["error"]["remedy"]
    assert agent.metric("setsuden_accepted_events_total") == before
    if content_type:  # tritonclient sends none
        inferred = wire.post(agent.port, "/v2/models/digits/infer", b"{}", *headers)
        assert inferred.status == 415


def test_a_host_that_is_allowed_may_stand_in_host_and_origin(start: Start) -> None:
    agent = start(http='allowed_hosts = ["device.example", "UI.example:3000"]')
    for headers, status in [
        (("Host: device.example:80",), 200),
        (("Host: device.example", "Origin: https://device.example"), 200),
        (("Origin: http://ui.example:3000", "Sec-Fetch-Site: same-site"), 200),
        (("Host: other.example",), 403),
        (("Host: device.example", "Origin: https://other.example"), 403),
    ]:
        assert wire.get(agent.port, "/readyz", *headers).status == status


@pytest.mark.parametrize(
    ("header", "value"), [("Host", "a"), ("Origin", "http://localhost"), ("Authorization", "x")]
)
def test_a_header_that_decides_may_not_be_given_twice(
    agent: AgentProcess, header: str, value: str
) -> None:
    twice = (f"{header}: {value}", f"{header}: {value}")
    assert wire.get(agent.port, "/livez", *twice).status == 400


# -- beyond loopback --------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0" + ".0" * 3, "::", "192.0.2.1", "device.example", ""])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    with pytest.raises(ValidationError, match="token_file"):
        HttpOptions(host=host)
    assert HttpOptions(host=host, token_file=TOKEN_FILE).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert HttpOptions(host=host).token_file is None


def test_without_the_token_only_health_is_answered(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    agent = start(
        http=f'host = "0.0.0.0"\ntoken_file = "{tmp_path / "token"}"', pipeline_extra=ANSWER_ALL
    )
    right = f"Authorization: Bearer {TOKEN}"
    for path in ("/metrics", "/events/x-1", "/v2", "/v2/models/digits"):
        answer = wire.get(agent.port, path)
        assert answer.status == 401
        assert "www-authenticate: Bearer" in answer.text
        for wrong in ("Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN):
            assert wire.get(agent.port, path, f"Authorization: {wrong}").status == 401
        assert wire.get(agent.port, path, right).status in {200, 404}
    assert wire.post(agent.port, "/events", EASY, *EVENT).status == 401
    assert wire.post(agent.port, "/events", EASY, *EVENT, right).status == 200
    assert wire.get(agent.port, "/livez").status == 200
    assert "checks" not in body_of(wire.get(agent.port, "/readyz"))
    assert "checks" in body_of(wire.get(agent.port, "/readyz", right))
    assert TOKEN not in agent.log()


@pytest.mark.parametrize("content", [None, "", "short", "two words that are long", "ü" * 20])
def test_a_token_file_without_a_token_is_a_configuration_error(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"http\.token_file") as caught:
        guard.read_token(HttpOptions(token_file=TOKEN_FILE), tmp_path)
    assert "openssl rand" in caught.value.remedy
    assert not content or content not in str(caught.value)


def test_one_remote_client_gets_a_share_and_the_device_all_of_it() -> None:
    shared = guard.RequestGuard(HttpOptions(max_waiting=8))
    with shared.place("192.0.2.1"), shared.place("192.0.2.1"):
        with shared.place("192.0.2.2"):
            pass
        with pytest.raises(RequestRefusedError) as caught, shared.place("192.0.2.1"):
            pass
        assert caught.value.http_status == 429
    with shared.place("192.0.2.1"), shared.place("127.0.0.1"), shared.place("127.0.0.1"):
        shared.place("127.0.0.1").__enter__()


def test_ipv6_loopback_is_served(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        port = probe.getsockname()[1]
    text = config().replace("port = 0", f'port = {port}\nhost = "::1"')
    agent = AgentProcess(tmp_path / "agent", text)
    try:
        agent.spawn()
        while not (agent.folder / "state" / "http.port").exists():
            assert not agent.ends_within(0.05), agent.log()
        for host in ("[::1]", f"[::1]:{port}", "localhost"):
            assert wire.get(port, "/livez", f"Host: {host}", host="::1").status == 200
    finally:
        agent.kill()


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_a_configuration_error(tmp_path: Path, host: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    text = config(http=f'host = "{host}"\ntoken_file = "{tmp_path / "token"}"')
    agent = AgentProcess(tmp_path / "agent", text)
    assert agent.spawn().wait(timeout=30) != 0
    assert f"config_invalid: cannot listen on {host}" in agent.log()


# -- routes -----------------------------------------------------------------------------------


def test_head_is_get_without_the_body(agent: AgentProcess) -> None:
    event_id = agent.event(EASY)[1]["event_id"]
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/v2", "/v2/health/ready",
                 "/v2/models/digits", f"/events/{event_id}"):  # fmt: skip
        answer = wire.get(agent.port, path, method="HEAD")
        head, _, body = answer.text.partition("\r\n\r\n")
        assert (answer.status, body) == (200, "")
        assert int(head.lower().split("content-length: ")[1].split("\r\n")[0]) > 0


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/livez", 405, "GET, HEAD"),
        ("DELETE", "/events/x-1", 405, "GET, HEAD"),
        ("GET", "/events", 405, "POST"),
        ("OPTIONS", "/events", 405, "POST"),
        ("GET", "/v2/models/digits/infer", 405, "POST"),
        ("PUT", "/v2", 405, "GET, HEAD"),
        ("GET", "/nothing", 404, None),
        ("OPTIONS", "*", 404, None),
        ("GET", "//", 404, None),
        ("GET", "/events/%00", 404, None),
        ("GET", "/events/%ff%fe", 404, None),
        ("GET", "http://evil.example/livez", 404, None),
    ],
)
def test_a_wrong_method_names_the_right_one_and_a_wrong_path_is_not_found(
    agent: AgentProcess, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = wire.get(agent.port, path, method=method)
    assert answer.status == status
    assert allow is None or f"allow: {allow}\r\n" in answer.text


@pytest.mark.parametrize(
    "event_id",
    ["x-99999999999999999999", "x-9223372036854775808", "x-0", "x", "x-", "-1", "x-1-2", "1"],
)
def test_an_event_that_is_not_known_is_not_found(agent: AgentProcess, event_id: str) -> None:
    assert wire.get(agent.port, f"/events/{event_id}").status == 404


@pytest.mark.parametrize("wait", ["abc", "-1", "nan", "inf", "", "1e400", "0x1"])
def test_a_wait_that_is_no_number_is_refused(agent: AgentProcess, wait: str) -> None:
    answer = wire.post(agent.port, f"/events?wait={wait}", EASY, *EVENT)
    assert (answer.status, body_of(answer)["error"]["field"]) == (400, "wait")


def test_a_preference_that_is_no_number_is_ignored(agent: AgentProcess) -> None:
    for preference in ("wait=x", "wait=-1", "respond-async", "wait=1, return=minimal"):
        assert wire.post(agent.port, "/events", EASY, *EVENT, f"Prefer: {preference}").status == 200


def test_bytes_that_are_no_text_are_refused_and_can_be_named(agent: AgentProcess) -> None:
    head = b"POST /events HTTP/1.1\r\n" + wire.LOCAL + b"Connection: close\r\nContent-Length: 784"
    right = {b"ce-id": b"1", b"ce-source": b"s", b"content-type": b"application/octet-stream"}
    for wrong in (
        {b"ce-id": b"\xff"},
        {b"ce-pipeline": b"\xff"},
        {b"ce-time": b"\xff"},
        {b"content-type": b"application/cloudevents\xff"},
    ):
        lines = b"".join(b"\r\n%b: %b" % pair for pair in (right | wrong).items())
        answer = wire.say(agent.port, head + lines + b"\r\n\r\n" + EASY)
        assert answer.status in {400, 415}
        assert body_of(answer)["error"]["message"]


# -- bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
        (b"GET /livez\r\n\r\n", {400}),
        (b"GET /livez HTTP/1.1\r\n\r\n", {400}),
        (b"\r\n\r\n\r\n\x00", {400}),
        (b"GET /livez HTTP/1.1\r\n" + wire.LOCAL + b"X: " + b"a" * 40_000, {400}),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + wire.LOCAL + b"\r\n", {414}),
        (b"GET /livez HTTP/1.1\r\n" + wire.LOCAL + b"X: 1\r\n" * 200 + b"\r\n", {431}),
        (b"GET /livez HTTP/1.1\r\n" + wire.LOCAL + b"X : 1\r\n\r\n", {400}),
        (b"POST /events HTTP/1.1\r\n" + wire.LOCAL + b"Content-Length: -1\r\n\r\n", {400}),
        (b"POST /events HTTP/1.1\r\n" + wire.LOCAL
         + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
        (b"POST /events HTTP/1.1\r\n" + wire.LOCAL
         + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400, 415}),
        (b"POST /events HTTP/1.1\r\n" + wire.LOCAL
         + b"content-type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
         {400}),
        (b"POST /events HTTP/1.1\r\n" + wire.LOCAL
         + b"Content-Length: 99999999999999\r\ncontent-type: application/octet-stream\r\n\r\n",
         {413}),
    ],
)  # fmt: skip
def test_malformed_requests_get_an_error_and_are_not_logged(
    agent: AgentProcess, data: bytes, statuses: set[int]
) -> None:
    before = agent.metric("setsuden_http_refused_requests_total")
    answer = wire.say(agent.port, data, seconds=6)
    assert answer.status in statuses
    assert body_of(answer)["error"]["message"]
    assert agent.metric("setsuden_http_refused_requests_total") > before
    log = (agent.folder / "agent.log").read_text()
    assert [word for word in ("http_failed", "Traceback", "Invalid HTTP") if word in log] == []


def test_idle_connections_do_not_keep_health_from_answering(start: Start) -> None:
    agent = start(http="max_waiting = 200", pipeline_extra=ANSWER_ALL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    idle: list[socket.socket] = []
    try:
        idle += [wire.connected(agent.port) for _ in range(1100)]
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/live"):
            assert agent.get(path)[0] == 200
        for connection in idle:
            with suppress(OSError):
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: local")
        assert agent.get("/livez")[0] == 200
        assert agent.event(EASY)[0] == 200
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert agent.metric("setsuden_http_refused_requests_total") > 700
    assert agent.terminate() == 0


def test_waiting_requests_are_bounded_and_health_is_not(start: Start) -> None:
    agent = start(http="max_waiting = 3", pipeline_extra=ESCALATE_ALL)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(agent.event, EASY, wait=60.0) for _ in range(3)]
        agent.until(lambda: agent.metric("setsuden_pending_events") == 3)
        assert agent.event(EASY)[0] == 503
        assert agent.get("/livez")[0] == 200
        assert agent.ready()
        stopped = time.monotonic()
        assert agent.terminate() == 0
        # A stopping agent lets nobody wait for the cloud: what is known is the answer.
        assert [future.result()[0] for future in waiting] == [202] * 3
        assert time.monotonic() - stopped < 8


def test_a_client_that_hangs_up_gives_its_place_back(start: Start) -> None:
    agent = start(http="max_waiting = 3", pipeline_extra=ESCALATE_ALL)
    head = "\r\n".join(
        ["POST /events?wait=300 HTTP/1.1", "Host: localhost", *EVENT[:2], "Content-Length: 784"]
    )
    for number in range(12):
        with wire.connected(agent.port) as connection:
            connection.sendall(f"{head}\r\nce-id: {number}\r\n\r\n".encode() + EASY)
            agent.until(
                lambda expected=number + 1: (  # type: ignore[misc]  # bound right here
                    agent.metric("setsuden_pending_events") == expected
                )
            )
    assert agent.event(EASY)[0] == 202


def test_an_endless_body_is_cut_off(agent: AgentProcess) -> None:
    head = "\r\n".join(
        ["POST /events HTTP/1.1", "Host: localhost", *EVENT, "Transfer-Encoding: chunked", "", ""]
    )
    began = time.monotonic()
    with wire.connected(agent.port) as connection, suppress(OSError):
        connection.sendall(head.encode())
        while time.monotonic() - began < 30:
            connection.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")
            assert agent.get("/livez")[0] == 200
    assert time.monotonic() - began < 15


def test_a_body_that_is_too_large_is_answered_before_it_is_cut_off(agent: AgentProcess) -> None:
    answer = wire.post(agent.port, "/events", bytes(3_000_000), *EVENT)
    assert (answer.status, body_of(answer)["error"]["code"]) == (413, "payload_too_large")


def test_a_refused_sender_that_expects_100_is_not_asked_for_its_body(agent: AgentProcess) -> None:
    request = b"POST /nothing HTTP/1.1\r\n" + wire.LOCAL + b"Expect: 100-continue\r\n"
    answer = wire.say(agent.port, request + b"Content-Length: 10\r\n\r\n", seconds=6)
    assert answer.status == 404
    assert answer.closed


@pytest.mark.slow
def test_every_slow_client_is_cut_off_in_its_time(start: Start) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    chunked = "\r\n".join(["POST /events HTTP/1.1", "Host: localhost", *EVENT, ""])

    def until_cut(first: bytes, drip: bytes, pause: float) -> float:
        began = time.monotonic()
        with wire.connected(agent.port) as connection, suppress(OSError):
            connection.sendall(first)
            connection.settimeout(pause)
            while time.monotonic() - began < 60:
                with suppress(TimeoutError):
                    while connection.recv(65_536):
                        pass
                    return time.monotonic() - began
                connection.sendall(drip)
        return time.monotonic() - began

    def never_reads() -> float:
        began = time.monotonic()
        with wire.connected(agent.port) as connection, suppress(OSError):
            connection.settimeout(60)
            while time.monotonic() - began < 60:
                connection.sendall(b"GET /metrics HTTP/1.1\r\n" + wire.LOCAL + b"\r\n")
        return time.monotonic() - began

    with ThreadPoolExecutor(8) as pool:
        silent = pool.submit(until_cut, b"", b"", 1.0)
        head = pool.submit(until_cut, b"GET /livez HTTP/1.1\r\nX: ", b"a", 0.5)
        body = pool.submit(
            until_cut, f"{chunked}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\na\r\n", 0.5
        )
        unread = pool.submit(never_reads)
        assert silent.result() < HEAD_SECONDS + 3
        assert head.result() < HEAD_SECONDS + 3
        assert agent.get("/livez")[0] == 200
        assert body.result() < BODY_SECONDS + 8
        assert unread.result() < WRITE_SECONDS + 15
    assert agent.terminate() == 0


class Generous:
    """An application whose answers no socket's buffer holds."""

    def fit(self, connections: int) -> None:
        self.connections = connections

    def stop(self) -> None:
        pass

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b"ok" if scope["path"] == "/livez" else bytes(16 << 20)
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


async def test_clients_that_fetch_nothing_give_way_to_health(tmp_path: Path) -> None:
    refused = Counter[str]()
    options = HttpOptions(port=0, max_waiting=1)
    server = HttpServer(Generous(), options, tmp_path, refused)  # type: ignore[arg-type]  # an ASGI app
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    greedy = []
    for _ in range(101):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        greedy.append(writer)
        writer.write((b"GET / HTTP/1.1\r\n" + wire.LOCAL + b"\r\n") * 2)
        await reader.read(1)  # the first answer has begun: the second waits for it to be fetched
    answer = await asyncio.to_thread(wire.get, server.port, "/livez")
    assert answer.status == 200
    assert refused == {"http_idle": 1}
    server.stop()
    for writer in greedy:
        writer.close()
    await serving


def test_senders_of_bodies_that_nobody_reads_give_way_to_health(start: Start) -> None:
    agent = start(http="max_waiting = 10")  # 110 connections
    endless = b"POST /nothing HTTP/1.1\r\n" + wire.LOCAL + b"Transfer-Encoding: chunked\r\n\r\n"
    with ExitStack() as stack:
        observer = HTTPConnection("127.0.0.1", agent.port, timeout=20)
        stack.callback(observer.close)
        observer.connect()
        for _ in range(109):
            stack.enter_context(wire.connected(agent.port)).sendall(endless + b"1\r\na\r\n")
        seen = b""
        while b'code="request_refused"} 109.0' not in seen:
            observer.request("GET", "/metrics")
            seen = observer.getresponse().read()
        lines = ["POST /events HTTP/1.1", "Host: localhost", *EVENT, "Expect: 100-continue"]
        observer.send("\r\n".join([*lines, "Content-Length: 784", "", ""]).encode())
        assert observer.sock.recv(1 << 20).startswith(b"HTTP/1.1 100")  # now nobody is idle
        assert agent.get("/livez")[0] == 200


def test_few_descriptors_fill_no_log_and_health_answers(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "agent", config(pipeline_extra=ESCALATE_ALL))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, hard))
    try:
        agent.spawn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    idle: list[socket.socket] = []
    try:
        agent.until(lambda: agent.ready() is not None)
        idle += [wire.connected(agent.port) for _ in range(100)]
        assert agent.get("/livez")[0] == 200
        for number in range(20):
            idle.append(wire.connected(agent.port))
            lines = ["POST /events?wait=60 HTTP/1.1", "Host: localhost", *EVENT[:2]]
            lines += [f"ce-id: {number}", "Content-Length: 784", "", ""]
            idle[-1].sendall("\r\n".join(lines).encode() + EASY)
            assert agent.get("/livez")[0] == 200
        log = (agent.folder / "agent.log").read_text()
        assert log.count("http_not_accepting") <= 1
        assert "Traceback" not in log
        assert agent.terminate() == 0
    finally:
        for connection in idle:
            connection.close()
        agent.kill()


# -- pure parts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("LocalHost.:80", "localhost"),
        ("[::1]:80", "::1"),
        ("[0:0::1]", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("", ""),
        ("[", ""),
        (":80", ""),
    ],
)
def test_a_host_is_compared_by_its_name(host: str, name: str) -> None:
    assert name_of(host) == name


@given(st.text(max_size=40))
def test_no_host_is_taken_for_loopback_but_loopback(host: str) -> None:
    if is_loopback(host):
        name = name_of(host)
        assert name in {"localhost", "::1"} or name.startswith("127.")


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_the_guard_only_refuses_or_lets_in(host: str, origin: str, site: str) -> None:
    headers = {"host": host, "origin": origin, "sec-fetch-site": site}
    asked = HttpRequest("GET", "/livez", "", headers, "127.0.0.1", "127.0.0.1")
    with suppress(RequestRefusedError):
        guard.RequestGuard(HttpOptions()).check(asked, health=True)
        assert name_of(host) == "localhost" or is_loopback(host)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("br, gzip", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000, deflate", "deflate"),
        ("", None),
        ("identity", None),
        ("*", None),
    ],
)
def test_a_response_is_compressed_only_as_the_client_accepts(
    header: str, encoding: str | None
) -> None:
    assert compression.accepted(header) == encoding


NUMBERS = {
    DType.UINT64: st.integers(0, 2**64 - 1),
    DType.INT64: st.integers(-(2**63), 2**63 - 1),
    DType.UINT8: st.integers(0, 255),
    DType.FLOAT64: st.floats(allow_nan=False, allow_infinity=False),
    DType.BOOL: st.booleans(),
}


@given(st.data(), st.sampled_from(sorted(NUMBERS)))
def test_json_numbers_become_exactly_these_octets(data: st.DataObject, dtype: DType) -> None:
    values = data.draw(st.lists(NUMBERS[dtype], min_size=6, max_size=6))
    declared = Observation(dtype=dtype, shape=(2, 3))
    expected = np.array(values, dtype=dtype.value).tobytes()
    for form in (values, [values[:3], values[3:]], [[values[:3], values[3:]]]):
        body = json.dumps(form).encode()
        assert json_tensor.read(body, declared, 10**6) == expected


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (DType.FLOAT32, "true"),
        (DType.UINT8, "true"),
        (DType.BOOL, "1"),
        (DType.UINT64, "18446744073709551616"),
        (DType.UINT64, "-1"),
        (DType.UINT64, "1.5"),
        (DType.INT64, "9223372036854775808"),
        (DType.INT64, "9007199254740993.0"),
        (DType.UINT8, "256"),
        (DType.FLOAT64, "1" + "0" * 400),
        (DType.FLOAT32, "NaN"),
        (DType.FLOAT32, "Infinity"),
        (DType.FLOAT32, "-Infinity"),
        (DType.FLOAT32, "null"),
        (DType.FLOAT32, '"1"'),
    ],
)
def test_a_json_number_that_is_not_exactly_one_of_the_type_is_refused(
    dtype: DType, text: str
) -> None:
    declared = Observation(dtype=dtype, shape=(1,))
    with pytest.raises(InvalidTensorError):
        json_tensor.read(f"[{text}]".encode(), declared, 10**6)


@pytest.mark.parametrize(
    ("dtype", "text"),
    [(DType.FLOAT32, "1e39"), (DType.FLOAT16, "70000"), (DType.FLOAT64, "1e999")],
)
def test_a_json_number_that_overflows_is_refused_by_the_codec(dtype: DType, text: str) -> None:
    declared = Observation(dtype=dtype, shape=(1,))
    octets = json_tensor.read(f"[{text}]".encode(), declared, 10**6)
    assert len(octets) == ITEM_BYTES[dtype]
    event = Event(id="1", source="s", pipeline="p", device="d", data=octets)
    with pytest.raises(InvalidTensorError, match="NaN or infinity"):
        codec.decode(event, declared, 10**6)
