"""The shape of the repository: namespaces, directions of import, sizes, words that must not be."""

from __future__ import annotations

import ast
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("schemas", "pipelines", "edge_agent", "services")
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 500
MIN_MODULE_LINES = 40
SHORT = {
    "pipelines/setsuden/process/quiet.py",  # imported before anything that would report home
    "services/setsuden/cli/energy/group.py",  # an entry point
}
MAX_MEDIAN_LINES = 10
DEVICE_PACKAGES = ("schemas", "link", "pipelines", "edge_agent", "client")
FORBIDDEN = (
    r"(?<![\w.~$-])/(?:work|root|home/\w+)/",
    r"pypi" + r"\.org",
    r"python" + r"hosted\.org",
    r"registry\." + r"npmjs",
    r"https?://[\w.-]*(?:artifactory|nexus|devpi)\b",
    r"--(?:extra-)?index-" + r"url",
)
"""Places of one machine, and hosts that packages come from."""

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "pyproject.toml").exists(), reason="needs the repository, not a wheel"
)


def sources() -> Iterator[Path]:
    for root in ROOTS:
        yield from sorted((REPOSITORY / root / "setsuden").rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and body lines, without its docstring, of every function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        yield f"{path.relative_to(REPOSITORY)}:{node.name}", lines


def in_fresh_python(code: str) -> list[str]:
    """What the code prints as JSON in a Python that has imported nothing of ours."""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stdout)
    return found


def modules(packages: tuple[str, ...]) -> list[str]:
    """Every module of these packages but training, which needs torch."""
    found = []
    for root in ROOTS:
        base = REPOSITORY / root
        for path in (base / "setsuden").rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            if parts[1] in packages and "train" not in parts and parts[-1] != "__main__":
                found.append(".".join(part for part in parts if part != "__init__"))
    return sorted(found)


def test_the_namespace_has_no_init_file_in_any_root() -> None:
    """With one of them the other three roots would be invisible."""
    assert [str(path) for path in REPOSITORY.glob("*/setsuden/__init__.py")] == []


@pytest.mark.slow
def test_nothing_that_runs_on_a_device_imports_ray() -> None:
    names = modules(DEVICE_PACKAGES)
    assert len(names) > 40
    code = f"""
import importlib, json, sys
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps(sorted({{"ray", "torch"}} & sys.modules.keys())))
"""
    assert in_fresh_python(code) == []


def test_the_client_imports_neither_runtime_nor_numpy_nor_pipelines() -> None:
    code = """
import json, sys, setsuden.client
heavy = {"onnxruntime", "numpy", "ray", "setsuden.pipelines", "setsuden.services", "opentelemetry"}
print(json.dumps(sorted(heavy & sys.modules.keys())))
"""
    assert in_fresh_python(code) == []


def test_every_function_and_module_is_short() -> None:
    long_functions = [
        f"{name}: {lines}"
        for path in sources()
        for name, lines in functions(path)
        if lines > MAX_FUNCTION_LINES
    ]
    long_modules = [
        f"{path.relative_to(REPOSITORY)}: {lines}"
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE_LINES
    ]
    assert long_functions + long_modules == []


def test_no_module_is_a_splinter() -> None:
    short = [
        f"{name}: {lines}"
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) < MIN_MODULE_LINES
        and (name := str(path.relative_to(REPOSITORY))) not in SHORT
        and path.name not in {"__init__.py", "__main__.py"}
    ]
    assert short == []


def test_no_two_classes_have_one_name() -> None:
    """One name, one meaning: whoever reads it anywhere knows which is meant."""
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(REPOSITORY)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_median_function_is_under_ten_lines() -> None:
    lengths = [lines for path in sources() for _, lines in functions(path)]
    assert statistics.median(lengths) < MAX_MEDIAN_LINES


@pytest.mark.slow
def test_the_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("import-linter is not installed")
    ended = subprocess.run(
        [str(command), "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout


def tracked_files() -> Iterator[Path]:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("needs the git repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # git
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return (path for path in paths if path.is_file())


def test_no_file_names_a_place_of_one_machine_or_a_package_host() -> None:
    pattern = re.compile("|".join(FORBIDDEN))
    wrong = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line) and path != Path(__file__):
                wrong.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    assert wrong == []
