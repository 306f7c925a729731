"""The README's own words, run: its Python block, its bundle, its configuration."""

from __future__ import annotations

import asyncio
import re
import sys
import tomllib
from pathlib import Path

import pytest
from tests.support import site
from tests.support.agent import DEVICE, digits

from setsuden.schemas.bundle import Manifest
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.services.demo.broker import LocalBroker

ROOT = Path(__file__).parent.parent
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


def test_the_bundle_and_the_pipeline_are_valid(readme: None) -> None:
    bundle, pipeline = blocks("toml")
    assert Manifest.model_validate(tomllib.loads(bundle)).classes == ("normal", "worn", "broken")
    (spec,) = tomllib.loads(pipeline)["pipelines"]
    assert PipelineSpec.model_validate(spec).bundle == "vibration"


def test_every_linked_file_exists(readme: None) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
