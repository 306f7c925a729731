"""What ``validate`` found about one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from setsuden.process.config import Problem


@dataclass(slots=True)
class Report:
    """What was found about one file."""

    path: Path
    """As it was given."""
    kind: str
    file: Path
    """The file itself, in a bundle folder its manifest."""
    text: str = ""
    problems: list[Problem] = field(default_factory=list)
    unreachable: list[Problem] = field(default_factory=list)
    """The broker could not be asked: nothing is wrong with the file for that."""
    checked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing at all was found."""
        return not self.problems and not self.unreachable
