"""Reference pages made from the code, so that they cannot say anything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from setsuden.edge_agent.config import AgentConfig
from setsuden.schemas import spans, streams
from setsuden.schemas.bundle import Manifest
from setsuden.schemas.subjects import SUBJECTS
from setsuden.services.config import CloudConfig

from .options import Option, Table, all_tables, table_of
from .output import toml

if TYPE_CHECKING:
    from pydantic import BaseModel

MADE = "<!-- Written by `python -m setsuden.cli.export_schemas`. -->\n"
_FILES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("agent.toml", "one edge agent", AgentConfig),
    ("cloud.toml", "workers and their supervisor", CloudConfig),
    ("bundle.toml", "the manifest of a bundle folder", Manifest),
)
_TRACING = Path(__file__).with_name("tracing.md")
_SETTING = """\
A value is set, in order of worth,

1. by a flag: `--set nats.urls=nats://broker:4222`,
2. in the environment: `SETSUDEN_NATS__URLS=nats://broker:4222`, two underscores between the parts
   of a key, entries of `[[pipelines]]` by their number (`SETSUDEN_PIPELINES__0__TEACHER`),
3. in the file,
4. by its default.

Flags and environment are read as TOML, else as text, else as a list of parts between commas.
`setsuden config show --config FILE --origin` says of each value where it came from. Unknown keys
are refused. `setsuden init DIR` writes these files with every option in them.
"""


def configuration() -> str:
    """``docs/configuration.md``: every option of every file."""
    parts = [MADE, "# Configuration\n", _SETTING]
    for name, purpose, model in _FILES:
        parts.append(f"## {name}: {purpose}\n")
        parts += [_options(table) for table in all_tables(table_of(model)) if table.options]
    return "\n".join(parts)


def _options(table: Table) -> str:
    name = ".".join(table.path)
    header = f"### `[[{name}]]`" if table.repeated else f"### `[{name}]`"
    lines = [header, "", table.meaning, ""] if table.path else []
    lines += rows(
        ("option", "type", "default", "meaning"), (_option_row(found) for found in table.options)
    )
    return "\n".join(lines) + "\n"


def _option_row(option: Option) -> tuple[str, ...]:
    kind = f"{option.type}, {option.bounds}" if option.bounds else option.type
    default = "" if option.default is None else f"`{toml(option.default)}`"
    return f"`{option.name}`", kind, "required" if option.required else default, option.meaning


def subjects() -> str:
    """``docs/subjects.md``: every subject and every stream."""
    found = ((f"`{one.pattern}`", one.purpose, one.publisher, one.reader) for one in SUBJECTS)
    lines = [MADE, "# Subjects\n"]
    lines += rows(("subject", "what", "published by", "read by"), found)
    lines += ["", "# Streams\n", _STREAMS]
    header = ("stream", "subjects", "retention", "bytes", "age", "republished to")
    return "\n".join([*lines, *rows(header, _stream_rows())]) + "\n"


_STREAMS = """\
As declared with the default bounds of `[streams]`. Each refuses new messages when its bytes are
used up (`discard: new`); `setsuden cloud streams` applies them.
"""


def _stream_rows() -> Iterator[tuple[str, ...]]:
    for stream in streams.all_streams(streams.StreamBounds()):
        age = stream["max_age"]
        days = f"{age / 86400e9:g} days" if isinstance(age, int) and age else "no limit"
        names = stream["subjects"]
        again = stream.get("republish")
        yield (
            f"`{stream['name']}`",
            ", ".join(f"`{name}`" for name in names) if isinstance(names, list) else "",
            str(stream["retention"]),
            f"{stream['max_bytes']:_}",
            days,
            f"`{again['dest']}`" if isinstance(again, dict) else "",
        )


def tracing() -> str:
    """``docs/tracing.md``: the page beside this module, with every span and attribute in it."""
    tables = {
        "spans": rows(("span", "service", "kind", "under", "what"), map(_span_row, spans.SPANS)),
        "events": rows(("event", "where and what"), _named(spans.EVENTS)),
        "attributes": rows(("attribute", "meaning"), _named(spans.ATTRIBUTES)),
        "resource": rows(("attribute", "meaning"), _named(spans.RESOURCE)),
    }
    return filled(_TRACING, tables)


def _span_row(row: spans.SpanRow) -> tuple[str, ...]:
    parent = f"`{row.parent}`" if row.parent in spans.NAMES else row.parent or "nothing: a root"
    return f"`{row.name}`", row.service, row.kind, parent, row.meaning


def filled(page: Path, parts: Mapping[str, list[str]]) -> str:
    """The page with each ``@@name@@`` replaced by its lines."""
    text = page.read_text(encoding="utf-8")
    for name, lines in parts.items():
        text = text.replace(f"@@{name}@@", "\n".join(lines))
    return f"{MADE}\n{text}"


def _named(table: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    return ((f"`{name}`", meaning) for name, meaning in table.items())


def rows(header: tuple[str, ...], cells: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table."""
    lines = [_row(header), f"|{'---|' * len(header)}"]
    return [*lines, *(_row(row) for row in cells)]


def _row(cells: tuple[str, ...]) -> str:
    escaped = (
        cell.replace("|", "\\|").replace("<", "&lt;") if "`" not in cell else cell for cell in cells
    )
    return f"| {' | '.join(escaped)} |"
