"""docs/python.md and docs/testing.md: every Python block runs and passes mypy --strict."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from setsuden.testing import LocalSite

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DOCS.exists(), reason="no documents beside these tests"),
]


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8") if DOCS.exists() else ""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_in(folder: Path, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    """The site that docs/python.md submits to."""
    with LocalSite(tmp_path_factory.mktemp("site"), device="meter-7") as running:
        yield running


@pytest.mark.parametrize("block", blocks("python.md"))
def test_a_block_of_the_api_page_runs(block: str, site: LocalSite, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("app", encoding="utf-8")
    run_in(tmp_path, "-c", block.replace("nats://127.0.0.1:4222", site.url))


@pytest.mark.parametrize("block", blocks("testing.md"))
def test_a_block_of_the_testing_page_passes(block: str, tmp_path: Path) -> None:
    (tmp_path / "test_block.py").write_text(block, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    run_in(tmp_path, "-m", "pytest", "-q")


def test_the_blocks_pass_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for page in ("python", "testing"):
        for number, block in enumerate(blocks(f"{page}.md")):
            (tmp_path / f"{page}_{number}.py").write_text(block, encoding="utf-8")
    run_in(tmp_path, "-m", "mypy", "--strict", ".")
