"""One timeline for all spans of a device, whatever its wall clock does."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FILE = "clock.json"
_END_NS = 1 << 62
"""Past any clock, year 2116: a damaged anchor would make moments that no span can hold."""

_ANCHOR_SECONDS = 30.0


class SpanClock:
    """A wall-clock anchor, taken once in each boot, plus the monotonic clock.

    A step of NTP bends no duration and moves no span: how far the whole timeline is from the
    cloud's is measured (:mod:`.offset`) and corrected once. All lives of one boot share the
    anchor, because they share the monotonic clock.
    """

    def __init__(self, folder: Path) -> None:
        self.boot = _boot()
        """8 hexadecimal digits: spans of another boot have another timeline."""
        self.anchor_ns = _anchor(folder / _FILE, self.boot)

    def now_ns(self) -> int:
        """Nanoseconds since 1970 on this timeline."""
        return self.anchor_ns + time.monotonic_ns()

    def at(self, mono_ns: int) -> int:
        """A moment of ``time.monotonic_ns()`` on this timeline."""
        return self.anchor_ns + mono_ns


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii")[:8]
    except OSError:  # no Linux: every life is a boot of its own
        return secrets.token_hex(4)


def _anchor(file: Path, boot: str) -> int:
    try:
        # A pipe or a device would be read for ever.
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        anchor = int(kept["anchor_ns"])
        if kept["boot"] == boot and 0 <= anchor + time.monotonic_ns() < _END_NS:
            return anchor
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass  # none yet, or not ours: this life takes a new one
    anchor = time.time_ns() - time.monotonic_ns()
    with contextlib.suppress(OSError):  # a full disk: this life alone has this anchor
        _keep(file, boot, anchor)
    return anchor


def _keep(file: Path, boot: str, anchor: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.write_text(json.dumps({"boot": boot, "anchor_ns": anchor}), encoding="utf-8")
    fresh.replace(file)


class WallClock:
    """A wall-clock anchor plus the monotonic clock: a step of NTP bends no duration."""

    def __init__(self) -> None:
        self._anchored = self._offset = 0
        self.anchor()

    def anchor(self) -> None:
        """Follow the wall clock again, at most every 30 s; call between batches."""
        mono = time.monotonic_ns()
        if not self._offset or mono - self._anchored > _ANCHOR_SECONDS * 1e9:
            self._anchored, self._offset = mono, time.time_ns() - mono

    def now_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return self._offset + time.monotonic_ns()
