"""Every long-running command ends at once when it is told to, whatever it waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import ml
from tests.support.agent import config
from tests.support.running import Running

CLOUD = """\
[nats]
urls = ["nats://127.0.0.1:9"]
[bridge]
file = "spans.jsonl"
[[pipelines]]
name = "tiny"
bundle = "bundle"
"""
STOPS_FOR_EVER = """\
import asyncio
from setsuden.process.service import stop_signal

async def main():
    stop = stop_signal()
    print("ready", flush=True)
    await stop
    print("stopping", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "words",
    [
        "agent run --config agent.toml",
        "worker run --config cloud.toml",
        "cloud bridge --config cloud.toml",
        "cloud streams --serve --config cloud.toml",
    ],
)
def test_a_command_that_waits_for_its_broker_ends_when_it_is_told_to(
    tmp_path: Path, words: str, number: signal.Signals
) -> None:
    ml.write_bundle(tmp_path / "bundle", student=True)
    (tmp_path / "cloud.toml").write_text(CLOUD, encoding="utf-8")
    text = config(bundle=tmp_path / "bundle", pipeline="tiny")
    (tmp_path / "agent.toml").write_text(text, encoding="utf-8")
    with Running(*words.split(), folder=tmp_path) as running:
        running.until("link_down")
        running.send(number)
        assert running.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_process_that_is_still_stopping(number: signal.Signals) -> None:
    child = subprocess.Popen([sys.executable, "-c", STOPS_FOR_EVER], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        assert child.stdout.readline() == b"stopping\n"
        child.send_signal(number)
        assert child.wait(10) == -number
