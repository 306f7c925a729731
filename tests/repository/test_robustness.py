"""The documents on security and robustness name commands that run the tests they speak of."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """Every `pytest` command of the two documents."""
    found: dict[str, None] = {}
    for name in ("robustness.md", "security.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for quoted in re.findall(r"`(pytest [^`]+)`", text):
            found |= dict.fromkeys(one.strip() for one in quoted.split(";"))
    return list(found)


@cache
def names(path: Path) -> str:
    """Its tests' names and their parameters' texts, as far as they stand in the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    marks = [ast.unparse(mark) for node in tests for mark in node.decorator_list]
    assigned = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
    return "\n".join([path.name, *(node.name for node in tests), *marks, *assigned]).lower()


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documents_selects_tests(command: str) -> None:
    words = shlex.split(command)[1:]
    files = [ROOT / word for word in words if word.startswith("tests/")]
    assert files
    assert [path for path in files if not path.is_file()] == []
    if "-k" not in words:
        return
    wanted = re.findall(r"\w[\w-]*", words[words.index("-k") + 1].lower())
    known = "\n".join(names(path) for path in files)
    missing = [word for word in wanted if word not in {"or", "and", "not"} and word not in known]
    assert missing == []
