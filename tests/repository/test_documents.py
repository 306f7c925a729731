"""The documents name files, commands and options that exist, and every decision is complete."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from setsuden.cli.main import cli

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "decisions.md"
SUFFIXES = (".py", ".md", ".toml", ".conf", ".sh", ".json", ".jsonl", ".yaml", ".html")
ELSEWHERE = {
    "agent.toml": "a user's configuration, written by `setsuden init`",
    "cloud.toml": "a user's configuration, written by `setsuden init`",
    "assumptions.json": "in the folder of a report's run",
    "clock.json": "in an agent's state folder",
    "spool/counters.json": "in an agent's state folder",
    "power/energy-pkg/": "an event of the kernel's perf",
    ".venv/bin": "made by `make`",
}
"""Texts that look like a path in this repository, and where they are instead."""

pytestmark = pytest.mark.skipif(not DECISIONS.exists(), reason="no documents beside these tests")


class Quote(NamedTuple):
    """A piece of code in a document."""

    place: str
    """``file:line``."""
    text: str
    inline: bool


def documents() -> list[Path]:
    names = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md")
    return [path for name in names if (path := ROOT / name).exists()] + sorted(
        (ROOT / "docs").glob("*.md")
    )


@cache
def quotes() -> list[Quote]:
    """Every text in backticks, and every line of a fenced block."""
    return [quote for path in documents() for quote in quotes_of(path)]


def quotes_of(path: Path) -> Iterator[Quote]:
    name, fenced, prose = path.relative_to(ROOT), False, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = line.lstrip().startswith("```")
        if fenced and not fence:
            yield Quote(f"{name}:{number}", line, inline=False)
        prose.append("" if fenced or fence else line)
        fenced ^= fence
    text = "\n".join(prose)  # a text in backticks may go on in the next line, not past an empty one
    for match in re.finditer(r"`((?:[^`\n]|\n(?!\n))+)`", text):
        number = text.count("\n", 0, match.start()) + 1
        yield Quote(f"{name}:{number}", " ".join(match[1].split()), inline=True)


@cache
def repository() -> tuple[str, ...]:
    """Every file and folder, as ``/path`` and ``/path/``, without what a build leaves."""
    listed = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name == ".ci" or not name.startswith((".", "__pycache__", "node_modules"))
        ]
        base = f"/{Path(folder).relative_to(ROOT).as_posix()}/".replace("/./", "/")
        listed += [base, *(base + name for name in files)]
    return tuple(listed)


def looks_like_a_path(text: str) -> bool:
    if text in ELSEWHERE or re.search(r"[<>*{}\s~]|://|^[/…]|^application/", text):
        return False
    return "/" in text or text.endswith(SUFFIXES)


def matches(path: str) -> list[str]:
    """What a path may mean: whole, without its first folders, or with ``…`` for some of them."""
    pattern = re.escape(path.rstrip("/")).replace("/…/", "/(?:.+/)?")
    start = "^/" if "…" in path else "/"
    meant = re.compile(f"{start}{pattern}/?$")
    return [known for known in repository() if meant.search(known)]


def complaint_about_path(path: str) -> str | None:
    candidates = matches(path)
    if not candidates:
        return "is not in the repository"
    whole = f"/{path.rstrip('/')}"
    if len(candidates) == 1 or "/" not in path or {whole, f"{whole}/"} & set(candidates):
        return None
    return f"may be any of {', '.join(candidates)}"


def complaint_about_command(line: str) -> str | None:
    """What is wrong with the words after ``setsuden``; ``…`` stands for any command of a group."""
    candidates: list[click.Command] = [cli]
    for word in re.split(r"\s#|[|>;&]", line)[0].replace("[", " ").replace("]", " ").split():
        contexts = [click.Context(each, **each.context_settings) for each in candidates]
        if word.startswith("-"):
            option = word.partition("=")[0].rstrip(".,:)")
            if not any(option in options(context) for context in contexts):
                return f"there is no option {option}"
            continue
        (group,) = candidates if len(candidates) == 1 else (None,)
        if not isinstance(group, click.Group):
            continue
        names = group.list_commands(contexts[0]) if word == "…" else [word]
        candidates = [
            each for name in names if (each := group.get_command(contexts[0], name)) is not None
        ]
        if not candidates:
            return f"there is no command {word!r} in {group.name!r}"
    return None


def options(context: click.Context) -> set[str]:
    return {
        name
        for parameter in context.command.get_params(context)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def test_every_path_in_a_document_exists() -> None:
    stale = [
        f"{quote.place}: `{quote.text}` {complaint}"
        for quote in quotes()
        if quote.inline
        and looks_like_a_path(quote.text)
        and (complaint := complaint_about_path(quote.text)) is not None
    ]
    assert not stale, "\n".join(stale)


def test_every_link_between_documents_leads_to_a_file() -> None:
    stale = [
        f"{path.relative_to(ROOT)}: ({target}) leads nowhere"
        for path in documents()
        for target in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert not stale, "\n".join(stale)


def test_every_command_in_a_document_exists_with_its_options() -> None:
    checked = [
        (quote, complaint_about_command(match[1]))
        for quote in quotes()
        if (match := re.search(r"(?:^|[\s/=])setsuden (\S.*)", quote.text)) is not None
    ]
    stale = [
        f"{quote.place}: `{quote.text}`: {complaint}" for quote, complaint in checked if complaint
    ]
    assert checked
    assert not stale, "\n".join(stale)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("agent run --config agent.toml  # starts", None),
        ("trace … --from state/spool", None),
        ("agent fly", "there is no command 'fly' in 'agent'"),
        ("agent run --fast", "there is no option --fast"),
    ],
)
def test_commands_are_judged_by_the_command_tree(line: str, complaint: str | None) -> None:
    assert complaint_about_command(line) == complaint


def records() -> list[tuple[str, str]]:
    """Heading and text of every decision."""
    if not DECISIONS.exists():
        return []
    _, *sections = re.split(r"^## ", DECISIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [(heading, text) for heading, _, text in (each.partition("\n") for each in sections)]


def anchor(heading: str) -> str:
    """A heading's address on its page, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


RECORD = re.compile(
    r"\n\*\d{4}-\d\d-\d\d · (?:accepted|superseded by \[[^\]]+\]\(#(?P<successor>[^)]+)\))\*\n"
    r"\n\*\*Context\.\*\* .+?\n\n\*\*Decision\.\*\* .+?\n\n\*\*Alternatives\.\*\* .+",
    re.DOTALL,
)


@pytest.mark.parametrize(("heading", "text"), records())
def test_a_decision_has_date_status_context_decision_and_alternatives(
    heading: str, text: str
) -> None:
    record = RECORD.match(text)
    assert record is not None, f"docs/decisions.md: {heading}"
    assert record["successor"] in {None, *(anchor(other) for other, _ in records())}


def test_the_table_of_contents_lists_every_decision_once() -> None:
    contents = DECISIONS.read_text(encoding="utf-8").partition("\n## ")[0]
    listed = re.findall(r"\[([^\]]+)\]\(#([^)]+)\)", contents)
    assert sorted(listed) == sorted((heading, anchor(heading)) for heading, _ in records())
