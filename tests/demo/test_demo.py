"""The demo: one document, nothing lost, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.report_fixture import bare

from setsuden.demo import figures, html, terminal
from setsuden.demo.report_model import DemoReport
from setsuden.insight.report.model import Report

COMMAND = [sys.executable, "-m", "setsuden.cli.main", "demo"]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def left_behind(folder: Path) -> list[str]:
    """Processes whose working folder or arguments lie in the demo's."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in [*process.cmdline(), process.cwd()]):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def checked(done: subprocess.CompletedProcess[str], folder: Path) -> DemoReport:
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, DemoReport.model_json_schema(mode="serialization"))
    assert left_behind(folder) == []
    return DemoReport.model_validate_json(done.stdout)


def test_a_plain_demo_tells_one_whole_story(tmp_path: Path) -> None:
    report = checked(run(tmp_path, "--plain", "--events", "200", "--rate", "200"), tmp_path)
    assert (report.cloud, report.accepted, report.final) == ("plain", 200, 200)
    assert (report.lost, report.doubled, report.expired) == (0, 0, 0)
    assert report.accuracy.student < report.accuracy.cascade <= 1
    assert 0 < report.escalated < 200
    assert report.sample is not None
    assert report.sample.hops[0].name == "event"
    assert {hop.service for hop in report.sample.hops} == {"edge-agent", "nats", "worker"}
    page = Path(report.files.report).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:,)|https?://|<script", page), (
        "the page fetches something"
    )
    assert Path(report.files.trace).stat().st_size > 0
    assert_energy_adds_up(report)


def assert_energy_adds_up(report: DemoReport) -> None:
    """Each figure follows from the rows alone, and the parts make the total."""
    parts = report.joules_per_1000
    assert (parts.network.value, parts.network.source) == (None, "none")
    known = [part.value for part in (parts.edge, parts.broker, parts.cloud)]
    assert parts.total.value == pytest.approx(sum(value or 0.0 for value in known))
    assert all(value is not None and value > 0 for value in known)
    bounds = [parts.total.low, parts.total.value, parts.total.high]
    assert bounds == sorted(bound for bound in bounds if bound is not None)
    folder = Path(report.files.energy).parent
    energy = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    assert energy.inferences == report.final
    assert energy.events.escalated == report.escalated
    again = subprocess.run(
        [sys.executable, "-m", "setsuden.cli.main", "report", str(folder), "--recompute"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_demo_on_ray_survives_an_outage(tmp_path: Path) -> None:
    report = checked(run(tmp_path, "--outage", "10s"), tmp_path)
    assert (report.cloud, report.accepted, report.final) == ("ray-serve", 500, 500)
    assert (report.lost, report.doubled) == (0, 0)
    assert report.outage_s >= 10


def test_ctrl_c_stops_everything_that_was_started(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "--plain", "--events", "5000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stderr is not None
    for line in demo.stderr:
        if line.startswith("answered"):
            break
    os.kill(demo.pid, signal.SIGINT)
    demo.stderr.read()
    assert demo.wait(timeout=60) == 130
    assert left_behind(tmp_path) == []


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    found = figures.percentile(values, share)
    assert found in values


def test_page_and_text_stand_without_an_escalated_event() -> None:
    example = DemoReport.model_validate_json(EXAMPLE)
    assert "No event was escalated" in html.page(example)
    assert "no event was escalated" in terminal.text(example, [], bare())


EXAMPLE = json.dumps(
    {
        "workload": "digits",
        "cloud": "plain",
        "events": 1,
        "accepted": 1,
        "final": 1,
        "lost": 0,
        "doubled": 0,
        "escalated": 0,
        "expired": 0,
        "outage_s": 0.0,
        "bytes_up": 0,
        "accuracy": {"student": 1.0, "teacher": 1.0, "cascade": 1.0},
        "latency_ms": {
            "easy": {"p50": 1.0, "p99": 1.0},
            "escalated": {"p50": None, "p99": None},
        },
        "cpu_seconds_per_1000": {"edge": 1.0, "broker": 1.0, "cloud": 1.0},
        "joules_per_1000": {
            part: {"value": None, "low": None, "high": None, "source": "none", "method": "-"}
            for part in ("edge", "broker", "network", "cloud", "total")
        },
        "sample": None,
        "jaeger": {"url": None, "trace_ids": [], "spans_dropped": 0},
        "files": {"trace": "t", "report": "r", "energy": "e"},
    }
)
