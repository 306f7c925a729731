"""A machine's files during one search: each is looked at once, however many rows ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from setsuden.energy.host.system import SysRoot


class SysfsCache:
    """Texts and names, kept."""

    def __init__(self, root: SysRoot) -> None:
        self._root = root
        self._texts: dict[str, str | None] = {}
        self._found: dict[str, list[str]] = {}
        self._names: dict[str, frozenset[str]] = {}

    def glob(self, pattern: str) -> list[str]:
        """Paths that match."""
        if pattern not in self._found:
            self._found[pattern] = self._root.glob(pattern)
        return self._found[pattern]

    def names(self, folder: str) -> frozenset[str]:
        """Names in the folder; none where there is no such folder."""
        if folder not in self._names:
            found = self._root.glob(f"{folder}/*")
            self._names[folder] = frozenset(name.rsplit("/", 1)[1] for name in found)
        return self._names[folder]

    def text(self, name: str) -> str | None:
        """What the file says; None where it cannot be read."""
        if name not in self._texts:
            self._texts[name] = self._root.text_or_none(name)
        return self._texts[name]

    def place(self, folder: str, file: str) -> str | None:
        """The file in the folder, else in its device's; None where there is none."""
        for place in self._places(folder):
            within, _, name = f"{place}/{file}".rpartition("/")
            if name in self.names(within):
                return f"{place}/{file}"
        return None

    def matching(self, folder: str, pattern: str) -> list[re.Match[str]]:
        """Names in the folder and its device's for ``pattern``, whose ``*`` is a number."""
        within, slash, name = pattern.rpartition("/")
        shape = re.compile(re.escape(name).replace(r"\*", r"(\d+)"))
        places = [f"{place}{slash}{within}" for place in self._places(folder)]
        tried = (shape.fullmatch(one) for place in places for one in self.names(place))
        return [found for found in tried if found]

    def _places(self, folder: str) -> Iterator[str]:
        yield folder
        if "device" in self.names(folder):
            yield f"{folder}/device"

    def says(self, folder: str, file: str) -> str | None:
        """What the folder's file says."""
        name = self.place(folder, file)
        return None if name is None else self.text(name)

    def device(self, folder: str) -> str:
        """The device's name, which outlives reboots where hwmon's number does not."""
        link = self._root.path / folder / "device"
        return link.resolve().name if link.is_symlink() else folder.rsplit("/", 1)[1]
