"""docs/http.md, run: every shell block in order, against a real agent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent import AgentProcess, config

from setsuden.edge_agent.config import HttpOptions
from setsuden.edge_agent.ingress import cloudevents, connection, guard, http, request, server

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no documents beside these tests")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """What each block printed, as JSON documents, one list for each block."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    folder = tmp_path_factory.mktemp("docs")
    agent = AgentProcess(folder / "agent", config(pipeline_extra="gate = { threshold = 0.0 }"))
    agent.start(link=False)
    mark = "\n--next--\n"
    script = f"printf '{mark}'\n".join(blocks("sh")).replace(
        "localhost:8787", f"localhost:{agent.port}"
    )
    try:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],  # the shell of this machine
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        yield [documents(text) for text in ended.stdout.split(mark)]
    finally:
        agent.kill()


def documents(text: str) -> list[Any]:
    """Every JSON document in a row of them."""
    decoder, found, place = json.JSONDecoder(), [], 0
    text = text.strip()
    while place < len(text):
        document, place = decoder.raw_decode(text, place)
        found.append(document)
        while place < len(text) and text[place].isspace():
            place += 1
    return found


def test_every_block_does_what_the_page_says(printed: list[Any]) -> None:
    first, looked_up, json_data, batch, again, inference, refusal = printed
    assert [result["status"] for result in first + looked_up + json_data] == ["final"] * 3
    assert looked_up[0]["source_id"] == "reading-2"
    assert [outcome["status"] for outcome in batch[0]] == [200, 422]
    assert {result["event_id"] for result in again} == {first[0]["event_id"]}
    metadata, answer = inference
    assert metadata["inputs"][0]["name"] == "observation"
    assert (answer["id"], answer["outputs"][0]["name"]) == ("r-1", "label")
    assert refusal[0]["error"]["code"] == "tensor_invalid"
    assert refusal[0]["source_id"] == "reading-6"
    assert refusal[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_the_configuration_is_valid_and_wants_its_token() -> None:
    (text,) = blocks("toml")
    options = HttpOptions.model_validate(tomllib.loads(text)["http"])
    assert options.token_file is not None


def test_the_bounds_are_those_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for text in (
        f"{server.MAX_HEAD_BYTES >> 10} KiB, {request.MAX_HEADERS} headers",
        f"{request.MAX_TARGET_CHARACTERS:,} characters of path and query",
        f"end of its first head | {connection.HEAD_SECONDS:g} |",
        f"between two requests | {server.IDLE_SECONDS} |",
        f"a whole body | {request.BODY_SECONDS:g} |",
        f"taken of an answer | {connection.WRITE_SECONDS:g} |",
        f"`http.max_waiting` + {server.SPARE_CONNECTIONS}",
        f"up to {cloudevents.MAX_BATCH_EVENTS} such objects",
        f"token of {guard.MIN_TOKEN_CHARACTERS} characters",
        f"at most\n{request.MAX_WAIT_SECONDS:g},",
        f"{http.MAX_BUFFERED_BYTES >> 20} MB of bodies",
        "a quarter",
    ):
        assert text in page
    assert guard.CLIENT_SHARE == 4


def test_every_route_of_the_page_exists(printed: list[Any]) -> None:
    for route in re.findall(
        r"`(/[^`]*)`", PAGE.read_text(encoding="utf-8").split("## An event")[0]
    ):
        path = route.replace("ID", "dev-1-00000000-1").replace("/M", "/digits")
        if "…" not in path and "V" not in path:
            assert http.method_of(path) in {"GET", "POST"}
