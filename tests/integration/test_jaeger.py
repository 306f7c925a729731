"""Jaeger: our configurations and its query API, against the real one."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support import jaeger as support
from tests.support.jaeger import INFRA, ShippedJaeger, new_trace_id, post, resource, span

from setsuden.insight.traces.jaeger import Dependency, JaegerQuery, trace_ids
from setsuden.schemas.errors import (
    ConfigError,
    LinkError,
    TraceDataError,
    UnavailableError,
)
from setsuden.testing.jaeger import BINARY, LocalJaeger, find_jaeger
from setsuden.testing.server import free_ports

needs_repository = pytest.mark.skipif(not INFRA.exists(), reason="needs the repository")
pytestmark = [pytest.mark.jaeger]
HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


def around() -> dict[str, Any]:
    """A time that holds what a test has just sent."""
    return {"start": now() - HOUR, "end": now() + HOUR}


def kept(jaeger: LocalJaeger, trace_id: str) -> bool:
    found = JaegerQuery(jaeger.query_url).trace(trace_id)
    return found is not None and trace_ids(found) == {trace_id}


@pytest.fixture
def query(jaeger: LocalJaeger) -> JaegerQuery:
    return JaegerQuery(jaeger.query_url)


# -- configurations as they are shipped --------------------------------------------------------


@needs_repository
def test_all_in_one_takes_a_span_and_gives_it_back(tmp_path: Path) -> None:
    with ShippedJaeger(tmp_path, "all-in-one.yaml") as running:
        post(running, resource("edge-agent", span(trace_id := new_trace_id(), "event")))
        assert kept(running, trace_id)


@needs_repository
def test_badger_keeps_what_it_acknowledged_through_a_kill(tmp_path: Path) -> None:
    running = ShippedJaeger(tmp_path, "badger.yaml")
    try:
        running.start()
        post(running, resource("edge-agent", span(trace_id := new_trace_id(), "event")))
        running.kill()
        running.start()
        assert kept(running, trace_id)
        assert {path.name for path in (tmp_path / "data").iterdir()} == {"keys", "values"}
    finally:
        running.stop()


@needs_repository
def test_the_ui_configuration_is_taken_and_a_missing_one_refused(tmp_path: Path) -> None:
    taken = {"JAEGER_UI_CONFIG": str(INFRA / "ui.json")}
    with ShippedJaeger(tmp_path / "with", "all-in-one.yaml", **taken) as running:
        assert str(INFRA / "ui.json") in running.log.read_text(encoding="utf-8")
    missing = {"JAEGER_UI_CONFIG": str(tmp_path / "none.json")}
    with pytest.raises(UnavailableError):
        ShippedJaeger(tmp_path / "without", "all-in-one.yaml", **missing).start()


@needs_repository
def test_clocks_are_never_adjusted(tmp_path: Path) -> None:
    """A child two seconds after its parent stays there: that is queue time, no wrong clock."""
    late = time.time_ns() + 2_000_000_000
    parent = span(trace_id := new_trace_id(), "escalate")
    child = span(trace_id, "process ESC", parent=parent["spanId"], ended_ns=late)
    with ShippedJaeger(tmp_path, "all-in-one.yaml") as running:
        post(running, resource("edge-agent", parent), resource("worker", child))
        found = JaegerQuery(running.query_url).trace(trace_id)
    # The adjuster moves the start alone.
    assert f'"startTimeUnixNano": "{child["startTimeUnixNano"]}"' in json.dumps(found)


@needs_repository
def test_ui_links_have_what_jaeger_reads() -> None:
    ui = json.loads((INFRA / "ui.json").read_text(encoding="utf-8"))
    assert ui["topTagPrefixes"][0] == "setsuden.energy."
    links = {link["type"]: link for link in ui["linkPatterns"]}
    assert set(links) == {"traces", "tags"}
    assert links["traces"]["url"].endswith("/trace/#{traceID}")
    assert links["tags"]["key"] == "setsuden.batch.trace_id"
    assert links["tags"]["url"] == "/trace/#{setsuden.batch.trace_id}"
    assert all(link["text"] for link in links.values())


@needs_repository
def test_every_playbook_has_front_matter_and_is_in_the_index() -> None:
    index = (INFRA / "skills" / "SKILL.md").read_text(encoding="utf-8")
    playbooks = sorted((INFRA / "skills").glob("*/SKILL.md"))
    assert playbooks
    for path in playbooks:
        head, body = path.read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n", 1)
        assert f"name: {path.parent.name}\n" in head
        assert re.search(r"^description: >-\n  \S", head, re.MULTILINE)
        assert body.startswith("\n# ")
        assert f"(custom/{path.parent.name}/SKILL.md)" in index


@needs_repository
def test_a_playbook_names_only_attributes_that_exist() -> None:
    from setsuden.schemas.spans import ATTRIBUTES  # noqa: PLC0415  # this test alone

    text = (INFRA / "skills" / "energy-hotspot" / "SKILL.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:setsuden|messaging)\.[\w.]+)`", text))
    assert len(named) > 10
    assert named <= ATTRIBUTES.keys()


# -- the build ---------------------------------------------------------------------------------


def built(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(INFRA / "build.py")],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_repository
def test_a_jaeger_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    binary = tmp_path / BINARY
    binary.parent.mkdir(parents=True)
    binary.write_text("here", encoding="utf-8")
    done = built(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{binary}\n", "")
    assert binary.read_text(encoding="utf-8") == "here"


@needs_repository
@pytest.mark.slow
def test_without_go_and_network_the_build_says_what_to_do(tmp_path: Path) -> None:
    done = built(tmp_path, PATH="", PIP_NO_INDEX="1")
    assert done.returncode == 69
    assert "Install Go 1.26 or newer" in done.stderr
    assert "Traceback" not in done.stderr


def fake_go(folder: Path, then: str) -> str:
    """A PATH with a `go` that is new enough and does this instead of building."""
    go = folder / "go"
    folder.mkdir()
    version = '[ "$1" = version ] && echo go version go1.26.0 && exit'
    go.write_text(f"#!/bin/sh\n{version}\n{then}\n", encoding="utf-8")
    go.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@needs_repository
def test_a_build_that_fails_leaves_nothing_half_made(tmp_path: Path) -> None:
    path = fake_go(tmp_path / "bin", "echo no such module >&2; exit 3")
    done = built(tmp_path, PATH=path)
    assert done.returncode == 1
    assert "no such module\nerror: go build ended with 3" in done.stderr
    assert list((tmp_path / BINARY).parent.iterdir()) == []


@needs_repository
def test_ctrl_c_ends_a_build_and_its_go(tmp_path: Path) -> None:
    path = fake_go(tmp_path / "bin", "exec sleep 60")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PATH": path}
    with subprocess.Popen(
        [sys.executable, str(INFRA / "build.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "building Jaeger" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)  # returns when go, too, has let go of the pipe
    assert process.returncode == 130
    assert "interrupted" in told[1]
    assert "Traceback" not in told[1]
    assert list((tmp_path / BINARY).parent.iterdir()) == []


# -- a local one -------------------------------------------------------------------------------


def test_a_killed_jaeger_comes_back_at_the_same_addresses(jaeger: LocalJaeger) -> None:
    before = (jaeger.otlp_url, jaeger.query_url)
    jaeger.kill()
    with pytest.raises(UnavailableError):
        JaegerQuery(jaeger.query_url).services()
    jaeger.start()
    post(jaeger, resource("edge-agent", span(trace_id := new_trace_id(), "event")))
    assert (jaeger.otlp_url, jaeger.query_url) == before
    assert kept(jaeger, trace_id)


def test_one_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"jaeger\.log"):
        LocalJaeger(tmp_path, "false").start()


def test_a_named_program_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        find_jaeger(tmp_path / "none")
    assert find_jaeger(sys.executable) == sys.executable


def test_what_make_jaeger_built_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_jaeger() is None
    (tmp_path / BINARY).parent.mkdir(parents=True)
    (tmp_path / BINARY).touch(mode=0o755)
    assert find_jaeger() == str(tmp_path / BINARY)


def test_where_jaeger_is_required_its_absence_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SETSUDEN_REQUIRE_JAEGER", raising=False)
    with pytest.raises(pytest.skip.Exception):
        support.binary()
    monkeypatch.setenv("SETSUDEN_REQUIRE_JAEGER", "1")
    with pytest.raises(pytest.fail.Exception):
        support.binary()


# -- the query API -----------------------------------------------------------------------------


def test_services_and_their_operations_are_listed(jaeger: LocalJaeger, query: JaegerQuery) -> None:
    assert query.services() == []
    trace_id = new_trace_id()
    spans = [span(trace_id, name) for name in ("infer", "event", "infer")]
    post(jaeger, resource("worker", span(trace_id, "process ESC")), resource("edge-agent", *spans))
    assert query.services() == ["edge-agent", "worker"]
    assert query.operations("edge-agent") == ["event", "infer"]
    assert query.operations("nobody") == []


def test_a_trace_comes_back_with_hex_ids_and_none_is_none(
    jaeger: LocalJaeger, query: JaegerQuery
) -> None:
    sent = span(new_trace_id(), "event")
    post(jaeger, resource("edge-agent", sent))
    for raw in (False, True):
        found = query.trace(sent["traceId"].upper(), raw=raw)
        assert found is not None
        (got,) = found["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert {key: got[key] for key in ("traceId", "spanId", "name", "endTimeUnixNano")} == {
            key: sent[key] for key in ("traceId", "spanId", "name", "endTimeUnixNano")
        }
    assert query.trace(new_trace_id()) is None


def test_search_narrows_by_name_duration_time_and_number(
    jaeger: LocalJaeger, query: JaegerQuery
) -> None:
    ids = [new_trace_id() for _ in range(3)]
    for trace_id, name in zip(ids, ("event", "event", "infer"), strict=True):
        post(jaeger, resource("edge-agent", span(trace_id, name)))
    short, long = timedelta(milliseconds=1), timedelta(seconds=1)

    def found(**narrowed: Any) -> set[str]:
        asked = around() | {"limit": 20} | narrowed
        return trace_ids(query.search("edge-agent", **asked))

    assert found() == set(ids)
    assert found(start=time.time() - 60, end=time.time() + 60) == set(ids)
    assert found(operation="infer") == {ids[2]}
    assert len(found(limit=1)) == 1
    assert found(min_duration=short, max_duration=long) == set(ids)
    assert found(min_duration=long) == found(max_duration=short) == set()
    assert found(end=now() - HOUR / 2) == set()
    assert query.search("nobody", **around(), limit=20) == {"resourceSpans": []}


def test_attributes_find_exactly_the_traces_that_have_them_all(
    jaeger: LocalJaeger, query: JaegerQuery
) -> None:
    high, low, split = new_trace_id(), new_trace_id(), new_trace_id()
    costly = {"setsuden.energy.class": "high"}
    both = costly | {"setsuden.escalated": "true"}
    post(jaeger, resource("edge-agent", span(high, "event", both)))
    post(jaeger, resource("edge-agent", span(low, "event", {"setsuden.energy.class": "low"})))
    apart = [span(split, "event", {key: value}) for key, value in both.items()]
    post(jaeger, resource("edge-agent", *apart))

    def found(tags: dict[str, str], service: str = "edge-agent") -> set[str]:
        return query.find_by_attributes(service, tags, **around())

    assert found(costly) == {high, split}
    assert found(both) == {high}
    assert found({"setsuden.energy.class": "hi"}) == set()
    assert found(costly, "worker") == set()


def test_an_upload_is_converted_line_by_line(query: JaegerQuery) -> None:
    ids = [new_trace_id() for _ in range(2)]
    lines = [
        json.dumps({"resourceSpans": [resource("edge-agent", span(trace_id, "event"))]})
        for trace_id in ids
    ]
    found = query.transform("\n\n".join([*lines, ""]).encode())
    assert [trace["traceID"] for trace in found] == ids
    assert [trace["spans"][0]["traceID"] for trace in found] == ids
    assert query.services() == []
    with pytest.raises(TraceDataError, match="line 2"):
        query.transform(lines[0].encode() + b"\n{}")


def test_the_service_graph_counts_calls(jaeger: LocalJaeger, query: JaegerQuery) -> None:
    escalate = span(trace_id := new_trace_id(), "escalate")
    twice = [span(trace_id, "process ESC", parent=escalate["spanId"]) for _ in range(2)]
    post(jaeger, resource("edge-agent", escalate), resource("worker", *twice))
    assert query.dependencies(now() + HOUR, 2 * HOUR) == [Dependency("edge-agent", "worker", 2)]
    assert query.dependencies(now() - HOUR, HOUR) == []


def test_what_jaeger_refuses_is_told_in_its_words(query: JaegerQuery) -> None:
    with pytest.raises(LinkError, match="search depth") as caught:
        query.search("edge-agent", **around(), limit=0)
    assert not isinstance(caught.value, UnavailableError)


@pytest.mark.parametrize("wrong", ["", "12", "g" * 32, "0" * 32, "../../services", "1" * 33])
def test_what_is_no_trace_id_reaches_no_address(wrong: str) -> None:
    query = JaegerQuery("http://127.0.0.1:1")
    for call in (query.trace, query.trace_link):
        with pytest.raises(TraceDataError):
            call(wrong)


def test_a_link_leads_into_the_ui() -> None:
    trace_id = new_trace_id()
    link = JaegerQuery("http://jaeger.example/base/").trace_link(trace_id)
    assert link == f"http://jaeger.example/base/trace/{trace_id}"


def test_an_address_is_http() -> None:
    with pytest.raises(ConfigError):
        JaegerQuery("file:///etc")


def test_a_dead_address_is_unavailable_with_a_remedy() -> None:
    (port,) = free_ports(1)
    with pytest.raises(UnavailableError, match="make jaeger"):
        JaegerQuery(f"http://127.0.0.1:{port}").services()


@pytest.fixture
def page() -> Iterator[str]:
    """A web server that is no Jaeger."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_no_jaeger_is_told_apart(page: str) -> None:
    with pytest.raises(LinkError, match="no JSON"):
        JaegerQuery(page).services()
