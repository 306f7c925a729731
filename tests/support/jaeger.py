"""A real Jaeger for tests, and spans to send it."""

from __future__ import annotations

import json
import os
import secrets
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from setsuden.testing.jaeger import LocalJaeger, find_jaeger
from setsuden.testing.server import free_ports

INFRA = Path(__file__).parents[2] / "infra" / "jaeger"
SPAN_MS = 20


def binary() -> str:
    """The Jaeger to test with; without one the test is skipped, or fails where it must not be."""
    found = find_jaeger()
    if found is not None:
        return found
    reason = "Jaeger is not built: make jaeger"
    if os.environ.get("SETSUDEN_REQUIRE_JAEGER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def jaeger(tmp_path: Path) -> Iterator[LocalJaeger]:
    """A real Jaeger with nothing in it."""
    with LocalJaeger(tmp_path / "jaeger", binary()) as running:
        yield running


class ShippedJaeger(LocalJaeger):
    """A Jaeger with a configuration of ours as it is shipped, on free ports."""

    def __init__(self, folder: Path, name: str, **environment: str) -> None:
        super().__init__(folder, binary())
        (grpc_otlp,) = free_ports(1)
        self._command = [binary(), "--config", str(INFRA / name)]
        self.environment = os.environ | {
            "JAEGER_OTLP_GRPC_PORT": str(grpc_otlp),
            "JAEGER_OTLP_HTTP_PORT": str(self.otlp_port),
            "JAEGER_QUERY_HTTP_PORT": str(self.query_port),
            "JAEGER_QUERY_GRPC_PORT": str(self.grpc_port),
            "JAEGER_HEALTH_PORT": str(self.health_port),
            "JAEGER_DATA": str(folder / "data"),
            **environment,
        }


def new_trace_id() -> str:
    """One that begins with zeros, which Jaeger's old API leaves out."""
    return f"{secrets.randbits(63) | 1:032x}"


def span(
    trace_id: str,
    name: str,
    attributes: Mapping[str, str] | None = None,
    *,
    parent: str = "",
    ended_ns: int | None = None,
) -> dict[str, Any]:
    """A span of OTLP JSON that ended now, or then."""
    end = ended_ns or time.time_ns()
    return {
        "traceId": trace_id,
        "spanId": secrets.token_hex(8),
        "parentSpanId": parent,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(end - SPAN_MS * 1_000_000),
        "endTimeUnixNano": str(end),
        "attributes": [
            {"key": key, "value": {"stringValue": value}}
            for key, value in (attributes or {}).items()
        ],
    }


def resource(service: str, *spans: dict[str, Any]) -> dict[str, Any]:
    """Spans of one service."""
    name = {"key": "service.name", "value": {"stringValue": service}}
    host = {"key": "host.id", "value": {"stringValue": service}}
    return {"resource": {"attributes": [name, host]}, "scopeSpans": [{"spans": list(spans)}]}


def post(jaeger: LocalJaeger, *resources: dict[str, Any]) -> None:
    """Send spans; when this returns, Jaeger has stored them."""
    request = urllib.request.Request(
        f"{jaeger.otlp_url}/v1/traces",
        data=json.dumps({"resourceSpans": resources}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
