"""Anything at all on the local HTTP port: the agent lives, answers others, counts, and stops."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support import wire
from tests.support.agent import AgentProcess, config

SECONDS = 20.0
CLIENTS = 6
PATHS = (
    "/events", "/events?wait=0.01", "/events?wait=%00", "/v2/models/digits/infer", "/v2", "/livez",
    "/v2/models/digits/versions/1/infer", "/v2/repository/index", "/events/dev-1-00000000-1",
    "/metrics", "/readyz", "/nothing", "/../../etc/passwd", "/%2e%2e", "*", "//",
    "/v2/models//infer",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "P\x00ST")
NAMES = (
    "ce-id", "ce-source", "ce-type", "ce-time", "ce-deadline", "ce-pipeline", "ce-priority",
    "ce-idempotencykey", "ce-idempotency-key", "ce-reply", "ce-traceid", "ce-specversion",
    "ce-datacontenttype", "traceparent", "tracestate", "baggage", "content-type", "accept-encoding",
    "content-encoding", "inference-header-content-length", "prefer", "origin", "sec-fetch-site",
    "authorization", "host", "expect", "connection", "upgrade", "transfer-encoding",
    "content-length",
)  # fmt: skip
VALUES = (
    "1", "", "-1", "99999999999999999999", "nan", "a", "digits", "dev-1", "%00", "%ff", "%C0%A0",
    "ü", "\xff", "a\tb", '"', '"a\\"', "chunked", "gzip", "deflate", "identity", "100-continue",
    "close", "keep-alive", "websocket", "application/octet-stream", "application/json",
    "text/plain",
    "application/cloudevents+json", "application/cloudevents-batch+json", "application/cloudevents",
    "2026-06-30T23:59:60Z", "2026-13-01t00:00:00z", "9999-12-31T23:59:59-23:59", "wait=1e9",
    "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "localhost", "evil.example", "[::1", "0x10", "1.0",
    "x" * 300, "x" * 20_000,
)  # fmt: skip
TYPES = (
    "application/octet-stream", "application/json", "application/cloudevents+json",
    "application/cloudevents-batch+json", "text/plain",
)  # fmt: skip
JSON_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1.5, 1e308, "", "a", "\ud800", "a\r\nb", "digits", "2026-01-01",
    [], {},
    [0] * 784, [[0] * 28] * 28, [True], ["1"], base64.b64encode(bytes(784)).decode(), "A A",
    [1, 28, 28], "UINT8", "observation", {"binary_data_size": 784}, {"binary_data_output": True},
)  # fmt: skip
JSON_KEYS = (
    "id", "source", "specversion", "type", "pipeline", "data", "data_base64", "datacontenttype",
    "time", "deadline", "idempotencykey", "traceparent", "inputs", "outputs", "parameters", "name",
    "shape", "datatype", "\ud800", "", "a" * 300,
)  # fmt: skip


class Hostile:
    """Requests that are mostly wrong, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def message(self) -> bytes:
        """The bytes of one connection."""
        kind = self.random.random()
        if kind < 0.02:
            return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        if kind < 0.1:
            return self.random.randbytes(self.random.randrange(200))
        message = self._head() + self._body()
        if kind < 0.3:
            message = self._damaged(message)
        return message * self.random.choice((1, 1, 1, 3))

    def _head(self) -> bytes:
        pick, chance = self.random.choice, self.random.random
        method = pick(METHODS) if chance() < 0.2 else "POST"
        path = pick(PATHS) if chance() < 0.3 else pick(PATHS[:4])
        lines = [f"{method} {path} HTTP/{pick(('1.1', '1.1', '1.1', '1.1', '1.0', '2.0', '1'))}"]
        if chance() < 0.95:
            lines.append("Host: localhost")
        if chance() < 0.9:
            lines += ["ce-id: 1", "ce-source: s", f"content-type: {pick(TYPES)}"]
        count = pick((0, 0, 0, 1, 1, 2, 6))
        lines += [f"{pick(NAMES)}: {pick(VALUES)}" for _ in range(count)]
        return "\r\n".join([*lines, ""]).encode()

    def _body(self) -> bytes:
        body = self.random.choice(
            (b"", b"x", bytes(784), b"{", b"\xff\xfe", b"[" * 5000, self._json(), self._json())
        )
        if self.random.random() < 0.15:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return b"transfer-encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        announced = len(body) + self.random.choice((0, 0, 0, 0, 0, 1, -1, 10**9))
        return b"content-length: %d\r\n\r\n" % announced + body

    def _json(self) -> bytes:
        document: Any = self._object(2)
        if self.random.random() < 0.3:
            document = [self._object(2) for _ in range(self.random.randrange(5))]
        return json.dumps(document).encode()

    def _object(self, depth: int) -> dict[str, Any]:
        pick = self.random.choice
        made = {pick(JSON_KEYS): pick(JSON_VALUES) for _ in range(self.random.randrange(8))}
        if self.random.random() < 0.5:
            made |= {"id": "1", "source": "s", "type": "t", "specversion": "1.0"}
        if depth and self.random.random() < 0.5:
            made["inputs"] = [self._object(depth - 1)]
        return made

    def _damaged(self, message: bytes) -> bytes:
        damaged = bytearray(message)
        for _ in range(self.random.choice((1, 1, 5))):
            place = self.random.randrange(len(damaged))
            match self.random.randrange(4):
                case 0:
                    damaged[place] = self.random.randrange(256)
                case 1:
                    del damaged[place:]
                case 2:
                    del damaged[place : place + 3]
                case _:
                    damaged[place:place] = self.random.randbytes(3)
            if not damaged:
                break
        return bytes(damaged)


def attack(port: int, seed: int, until: float) -> Counter[int]:
    """Send until then; how often each status came back."""
    hostile, seen = Hostile(seed), Counter[int]()
    while time.monotonic() < until:
        with suppress(OSError), wire.connected(port) as connection:
            connection.settimeout(0.5)
            with suppress(OSError):
                connection.sendall(hostile.message())
            if hostile.random.random() < 0.2:
                connection.shutdown(socket.SHUT_WR)
            if hostile.random.random() < 0.9:
                seen[wire.read_all(connection, 0.05).status] += 1
    return seen


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    running = AgentProcess(tmp_path / "agent", config(pipeline_extra="deadline_seconds = 1.0"))
    running.start(link=False)
    yield running
    running.kill()


@pytest.mark.slow
def test_generated_hostile_requests_harm_nobody_and_are_counted(agent: AgentProcess) -> None:
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as pool:
        seeds = [random.SystemRandom().getrandbits(32) for _ in range(CLIENTS)]
        attackers = [pool.submit(attack, agent.port, seed, until) for seed in seeds]
        while time.monotonic() < until:
            assert agent.get("/livez")[0] == 200, seeds
            status, result = agent.event(bytes(784))
            assert (status, bool(result["answer"])) in {(200, True), (202, True)}, seeds
        seen = sum((attacker.result() for attacker in attackers), Counter[int]())
    refused = {status for status in seen if status >= 400}
    assert refused >= {400, 403, 404, 405, 415, 422}, (seen, seeds)
    assert not refused & {500, 502}, (seen, seeds)
    assert agent.metric("setsuden_http_refused_requests_total") > 200
    assert agent.peak_mb() < 500
    assert agent.terminate() == 0, seeds
    log = (agent.folder / "agent.log").read_text()
    assert "Traceback" not in log, seeds
    assert "http_failed" not in log, seeds
