"""Findings as JSON lines, each with the day, the interpreter and the machine it was seen on."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime


def emit(benchmark: str, **values: object) -> None:
    """Print one finding; floats are rounded to 4 digits."""
    seen = {
        "benchmark": benchmark,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps(seen | rounded), flush=True)
