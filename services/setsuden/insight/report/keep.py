"""The report and its assumptions beside the rows, each replaced in one step."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from setsuden.insight.report import assumptions as assuming
from setsuden.insight.report import build
from setsuden.insight.report.model import Report
from setsuden.insight.report.run import Run


def keep(folder: Path, run: Run, report: Report) -> None:
    """Write both files; raises OSError where the folder cannot be written."""
    replace(folder / assuming.FILE, run.assumptions.text)
    replace(folder / build.FILE, report.model_dump_json(indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """The file with this text, so that no reader sees half of it; raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o644)  # mkstemp's 0600 would hide it from the auditor
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
