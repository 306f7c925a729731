"""`setsuden trace`: show, open, lint, export, report and serve, as a terminal runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import traces as make
from tests.support.command import Command

from setsuden.insight.traces import document as exporting
from setsuden.insight.traces.jaeger import JaegerQuery
from setsuden.schemas import spans as table
from setsuden.telemetry import otlp
from setsuden.testing.jaeger import JAEGER_REMEDY, LocalJaeger, find_jaeger
from setsuden.testing.server import free_port

UNKNOWN_ID = "f" * 32


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with an easy event, two escalated ones and their batch."""
    return make.write(tmp_path / "traces.jsonl", make.scene())


# -- show -------------------------------------------------------------------------------------


def test_show_draws_a_trace_by_the_beginning_of_its_id(setsuden: Command, file: Path) -> None:
    ended = setsuden("trace", "show", "aaaaaa", "--from", file)
    assert ended.code == 0
    assert "The cloud answered: 142.0 ms, 253 mJ" in ended.out
    assert "\x1b" not in ended.out


def test_show_as_json_says_the_critical_path_and_the_joules(setsuden: Command, file: Path) -> None:
    told = setsuden("trace", "show", make.ESCALATED, "--from", file, "--json").json
    assert told["energy"]["value"] == pytest.approx(0.253)
    teacher = next(s for s in told["spans"] if (s["service"], s["name"]) == ("worker", "infer"))
    assert teacher["critical_path_ms"] == 68
    assert told["clock"] == {"offset_ms": -400.0, "error_ms": 0.3, "corrected": True}


def test_show_reads_the_files_of_several_tiers(setsuden: Command, tmp_path: Path) -> None:
    spans = make.escalated()
    edge = [found for found in spans if found.service == table.SERVICE_EDGE]
    rest = [found for found in spans if found.service != table.SERVICE_EDGE]
    first, second = make.write(tmp_path / "e.jsonl", edge), make.write(tmp_path / "w.jsonl", rest)
    told = setsuden("trace", "show", "aaaaaa", "--from", first, "--from", second, "--json").json
    assert len(told["spans"]) == len(spans)


def test_an_unknown_id_says_what_to_do(setsuden: Command, file: Path) -> None:
    ended = setsuden("trace", "show", UNKNOWN_ID, "--from", file)
    assert (ended.code, ended.out) == (1, "")
    assert f"no trace {UNKNOWN_ID}" in ended.err
    assert "remedy: name another source with --from" in ended.err


def test_the_source_is_the_environments_when_none_is_named(
    setsuden: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETSUDEN_TRACE_SOURCE", str(file))
    assert setsuden("trace", "show", "aaaaaa").code == 0


# -- a Jaeger that is not there ---------------------------------------------------------------


def test_a_jaeger_that_is_not_there_is_exit_code_69(setsuden: Command) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = setsuden("trace", "show", UNKNOWN_ID, "--from", url)
    assert ended.code == 69
    assert "error:" in ended.err


def test_a_jaeger_needs_the_whole_id(setsuden: Command) -> None:
    ended = setsuden("trace", "show", "aaaaaa", "--from", "http://127.0.0.1:1")
    assert ended.code == 1
    assert "all 32 digits" in ended.err


def test_open_prints_the_deep_link_as_data(setsuden: Command) -> None:
    ended = setsuden(
        *("trace", "open", make.ESCALATED, "--jaeger", "http://jaeger:16686", "--no-browser")
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"http://jaeger:16686/trace/{make.ESCALATED}\n"


def test_open_refuses_what_is_no_jaeger_and_no_whole_id(setsuden: Command, file: Path) -> None:
    assert setsuden("trace", "open", make.ESCALATED, "--jaeger", file, "--no-browser").code == 2
    assert setsuden("trace", "open", "aaaaaa", "--no-browser").code == 2


@pytest.fixture
def jaeger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real Jaeger that was sent the scene twice, as a replay does."""
    binary = find_jaeger()
    if binary is None:
        pytest.skip(f"no Jaeger: {JAEGER_REMEDY}")
    monkeypatch.setattr(make, "ORIGIN_NS", time.time_ns() - 60 * 10**9)
    lines = list(exporting.otlp_lines(make.scene()))
    with LocalJaeger(tmp_path / "jaeger", binary) as running:
        for line in lines * 2:
            headers = {"content-type": "application/json"}
            address = f"{running.otlp_url}/v1/traces"
            sent = urllib.request.Request(address, line.encode(), headers)
            with urllib.request.urlopen(sent, timeout=20) as answer:
                assert answer.status == 200
        yield running.query_url


@pytest.mark.jaeger
def test_a_real_jaeger_is_a_source_for_every_command(
    setsuden: Command, jaeger: str, tmp_path: Path
) -> None:
    linted = setsuden("trace", "lint", jaeger)
    assert (linted.code, linted.out) == (0, "")
    assert "23 spans of 4 traces checked" in linted.err
    shown = setsuden("trace", "show", make.ESCALATED, "--from", jaeger, "--json").json
    assert len(shown["spans"]) == len(make.escalated())
    page = tmp_path / "page.html"
    setsuden("trace", "report", make.ESCALATED, "--from", jaeger, "-o", page)
    assert "500 mJ for the whole batch" in page.read_text(encoding="utf-8")
    setsuden("trace", "report", make.EASY, "--from", jaeger, "-o", page)
    assert "median of 2 runs of the teacher" in page.read_text(encoding="utf-8")
    exported = setsuden("trace", "export", "--from", jaeger).out.encode()
    transformed = JaegerQuery(jaeger).transform(exported)
    assert sum(len(trace["spans"]) for trace in transformed) == len(make.scene())


# -- lint -------------------------------------------------------------------------------------


def test_lint_of_whole_traces_says_how_many_were_checked(setsuden: Command, file: Path) -> None:
    ended = setsuden("trace", "lint", file)
    assert (ended.code, ended.out) == (0, "")
    assert "23 spans of 4 traces checked" in ended.err


def test_lint_of_a_broken_trace_names_file_line_span_and_rule(
    setsuden: Command, tmp_path: Path
) -> None:
    spans = make.changed(make.scene(), make.named(table.ESCALATE), name="escalate meter-7")
    path = make.write(tmp_path / "broken.jsonl", spans)
    ended = setsuden("trace", "lint", path)
    assert ended.code == 1
    assert ended.out.startswith(f"{path}:7: name: trace {make.ESCALATED} span ")
    assert "'escalate meter-7'" in ended.out
    assert "remedy: name:" in ended.err
    told = setsuden("trace", "lint", path, "--json")
    assert (told.code, [found["rule"] for found in told.json["findings"]]) == (1, ["name"])


def test_lint_of_what_is_no_trace_names_file_and_line(setsuden: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    ended = setsuden("trace", "lint", path, "--json")
    assert ended.code == 1
    assert json.loads(ended.err)["error"]["code"] == "trace_data_invalid"
    assert f"{path}:1: " in json.loads(ended.err)["error"]["message"]


# -- export and report ------------------------------------------------------------------------


def test_export_writes_one_document_a_line_that_lints_clean(
    setsuden: Command, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ended = setsuden("trace", "export", "--from", file, "-o", out)
    assert (ended.code, ended.out) == (0, "")
    assert "23 spans written" in ended.err
    assert all("resourceSpans" in json.loads(line) for line in out.read_text().splitlines())
    assert setsuden("trace", "lint", out).code == 0


def test_export_of_one_trace_goes_to_standard_output(setsuden: Command, file: Path) -> None:
    ended = setsuden("trace", "export", "--from", file, "--trace", "eeeeee")
    spans = [s for line in ended.out.splitlines() for g in otlp.read(line) for s in g.spans]
    assert {span.trace_id for span in spans} == {make.EASY}


def test_report_writes_one_page_of_one_trace_or_of_all(
    setsuden: Command, file: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    one = setsuden("trace", "report", "aaaaaa", "--from", file, "-o", page, "--json")
    assert one.json == {"file": str(page), "traces": 1, "trace_id": make.ESCALATED}
    assert "The cloud answered" in page.read_text(encoding="utf-8")
    assert "4 traces written" in setsuden("trace", "report", "--from", file, "-o", page).err
    assert setsuden("trace", "report", "--from", file, "-o", "-").out.startswith("<!doctype html>")


# -- serve ------------------------------------------------------------------------------------


@pytest.fixture
def served(file: Path) -> Iterator[str]:
    """The address of pages served from the file."""
    command = [sys.executable, "-m", "setsuden.cli.main", "trace", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--from", str(file)], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        yield run.stdout.readline().strip()
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 0


def get(url: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and body."""
    request = urllib.request.Request(url, headers={"accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


def test_serve_answers_pages_and_typed_errors_and_ends_cleanly(served: str) -> None:
    assert served.startswith("http://127.0.0.1:")
    status, kind, body = get(f"{served}/trace/{make.ESCALATED}")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "The cloud answered" in body
    assert f'href="/trace/{make.BATCH}"' in body
    assert get(f"{served}/livez")[0] == 200
    assert "/trace/" in get(served)[2]
    for path, expected, code in (
        (f"/trace/{UNKNOWN_ID}", 404, "trace_not_found"),
        (f"/trace/{'0' * 32}", 400, "trace_id_invalid"),
        ("/trace/..%2f..%2fetc", 400, "trace_id_invalid"),
        ("/etc/passwd", 404, "not_found"),
    ):
        status, _, body = get(served + path)
        assert (status, json.loads(body)["error"]["code"]) == (expected, code)
    assert "<h1>trace not found</h1>" in get(f"{served}/trace/{UNKNOWN_ID}", "text/html")[2]


async def test_a_source_that_cannot_be_read_is_a_bad_gateway(tmp_path: Path) -> None:
    from setsuden.insight.traces.serve import TracePages  # noqa: PLC0415  # asyncio.Lock

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:  # ASGI's shape
        sent.append(message)

    async def receive() -> dict[str, object]:  # ASGI's shape
        return {}

    for source, code in (
        (str(tmp_path / "none.jsonl"), b"source_invalid"),
        (f"http://127.0.0.1:{free_port()}", b"source_unavailable"),
    ):
        sent.clear()
        scope = {"type": "http", "method": "GET", "path": f"/trace/{UNKNOWN_ID}", "headers": []}
        await TracePages(source)(scope, receive, send)
        assert sent[0]["status"] == 502
        body = sent[1]["body"]
        assert isinstance(body, bytes)
        assert code in body


def test_an_address_that_is_taken_says_what_to_do(setsuden: Command, file: Path) -> None:
    ended = setsuden("trace", "serve", "--from", file, "--host", "192.0.2.1", "--port", "8")
    assert ended.code == 78
    assert "choose another --port" in ended.err


def test_standard_input_is_not_served(setsuden: Command) -> None:
    assert setsuden("trace", "serve", "--from", "-").code == 2


def test_a_torn_line_is_warned_of_and_the_rest_is_read(setsuden: Command, file: Path) -> None:
    """As a full disk leaves one: on standard error, so that the data stays data."""
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"resourceSpans":[{"resour')
    for arguments in (
        ("show", "aaaaaa", "--from", str(file)),
        ("lint", str(file)),
        ("lint", str(file), "--json"),
        ("export", "--from", str(file)),
        ("report", "-o", str(file.with_name("page.html")), "--from", str(file)),
    ):
        ended = setsuden("trace", *arguments)
        assert ended.code == 0
        assert "1 damaged line or segment passed over" in ended.err
        assert f"{file.name}:24" in ended.err
    assert json.loads(setsuden("trace", "lint", str(file), "--json").out)["damaged"] == 1
