"""The README's own words, run: its Python block, its bundle, its configuration."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from tests.support import site
from tests.support.agent import DEVICE, digits

import setsuden.client
from setsuden.pipelines.models import preparation
from setsuden.schemas.bundle import Manifest
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.testing.broker import LocalBroker

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def readme() -> None:
    if not README.exists():  # the tests also run against a wheel, away from the tree
        pytest.skip("no README beside these tests")


async def test_the_python_block_runs(readme: None, tmp_path: Path, broker: LocalBroker) -> None:
    (code,) = blocks("python")
    code = code.replace("nats://127.0.0.1:4222", broker.url).replace("my-device", DEVICE)
    async with site.site(tmp_path, broker, bundle_folder=digits(), pipeline="digits"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
    assert process.returncode == 0
    assert b"final" in printed
    assert b"J on the edge" in printed


TYPED = """
import asyncio
from typing import assert_type

import numpy as np

from setsuden.client import (
    Answer, AsyncClient, AsyncHandle, Client, Energy, EnergyReading, Handle, LinkOptions, Problem,
    RejectedError, Result, ResultTimeoutError, SetsudenError, Status, Tier, UnavailableError,
)


def plain(url: str) -> float | None:
    options = LinkOptions(urls=(url,), user="anna", password_file="secret")
    try:
        with Client(options=options, device="d") as client:
            handle = client.submit("digits", np.zeros((28, 28), np.uint8), deadline=1.0)
            assert_type(handle, Handle)
            result = handle.result(timeout=5)
            assert_type(result, Result)
            assert_type(result.answer, Answer | None)
            assert_type(result.status, Status)
            assert_type(result.tier, Tier | None)
            assert_type(result.error, Problem | None)
            assert_type(result.energy, Energy)
            assert_type(result.energy.edge, EnergyReading | None)
            return result.timing.total_ms
    except (RejectedError, ResultTimeoutError, UnavailableError) as error:
        print(error.remedy, error.trace_id)
    except SetsudenError as error:
        print(error.code)
    return None


async def in_a_loop(url: str) -> None:
    async with AsyncClient(url, device="d") as client:
        handle = await client.submit("digits", b"", idempotency_key="k")
        assert_type(handle, AsyncHandle)
        async for update in handle:
            assert_type(update, Result)
        print((await handle.result()).is_final)


asyncio.run(in_a_loop("nats://127.0.0.1:4222"))
"""


@pytest.mark.slow
def test_what_an_application_writes_passes_mypy_strict(readme: None, tmp_path: Path) -> None:
    """The README's block, the package's own example, and all that an application may name."""
    pytest.importorskip("mypy")
    example = re.findall(r"::\n\n((?:    .*\n|\n)+)", setsuden.client.__doc__ or "")
    assert example
    programs = {"readme": blocks("python")[0], "example": textwrap.dedent(example[0])}
    for name, code in (programs | {"typed": TYPED}).items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "."],
        cwd=tmp_path,  # away from this repository's own configuration
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_bundle_and_the_pipeline_are_valid(readme: None) -> None:
    bundle, pipeline = blocks("toml")
    manifest = Manifest.model_validate(tomllib.loads(bundle))
    assert manifest.classes == ("normal", "worn", "broken")
    for spec_of_model in manifest.models.values():
        assert preparation.problem(spec_of_model, manifest.observation) is None
    (spec,) = tomllib.loads(pipeline)["pipelines"]
    assert PipelineSpec.model_validate(spec).bundle == "vibration"


def test_every_linked_file_exists(readme: None) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
