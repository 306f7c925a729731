"""Log lines: one event name with key-values, from us and from third parties alike."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from setsuden.process.logs import formatter
from setsuden.schemas.log import get_logger

log = get_logger("setsuden.test")


def lines(caplog: pytest.LogCaptureFixture, device: str = "") -> list[dict[str, Any]]:
    render = formatter(device=device).format
    return [json.loads(render(record)) for record in caplog.records]


def test_line_holds_its_key_values_and_those_of_its_context(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with bound_contextvars(event_id="e-1", trace_id="t-1"):
        log.warning("event_dead", code="E_MODEL", suppressed=0)
    log.warning("link_down", detail="gone")
    first, second = lines(caplog, device="cam-1")
    assert list(first)[:3] == ["at", "level", "event"]
    assert first | {"at": ""} == {
        "at": "",
        "level": "warning",
        "event": "event_dead",
        "device": "cam-1",
        "code": "E_MODEL",
        "suppressed": 0,
        "event_id": "e-1",
        "trace_id": "t-1",
    }
    assert second["event"] == "link_down"
    assert "event_id" not in second


def test_third_party_record_becomes_the_same_kind_of_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("uvicorn.error").error("no route to %s", "nats://anna:pw@host")
    (line,) = lines(caplog)
    assert (line["level"], line["event"]) == ("error", "no route to nats://***@host")


def test_traceback_shows_no_local_variables(caplog: pytest.LogCaptureFixture) -> None:
    def fail(payload: str) -> float:
        return len(payload) / 0

    payload = "patient record"
    try:
        fail(payload)
    except ZeroDivisionError:
        log.exception("settling_failed")
    for terminal in (False, True):
        text = formatter(terminal=terminal).format(caplog.records[0])
        assert "ZeroDivisionError" in text
        assert "patient record" not in text


def test_terminal_gets_columns_instead_of_json(caplog: pytest.LogCaptureFixture) -> None:
    log.error("worker_silent", seconds=4)
    text = formatter(terminal=True).format(caplog.records[0])
    assert "worker_silent" in text
    assert not text.startswith("{")


def test_process_that_configures_no_logging_hears_nothing() -> None:
    code = "from setsuden.schemas.log import get_logger; get_logger('setsuden.a').error('x', a=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_other_libraries_leave_on_a_record_is_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("third.party").error("gone", extra={"_left_behind": 1})
    (line,) = lines(caplog)
    assert line.keys() == {"at", "level", "event", "device"}
