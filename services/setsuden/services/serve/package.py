"""A bundle that travels: what a replica on any node needs to load its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from setsuden.pipelines import bundle
from setsuden.pipelines.bundle import MANIFEST


class Package(NamedTuple):
    """Files by name, or the folder where every node has them."""

    files: dict[str, bytes]
    folder: str | None


def pack(folder: Path, model: str, carry_max_bytes: int) -> Package:
    """Manifest and one model's file, checked; the path alone when that is over the limit.

    Raises BundleError.
    """
    loaded = bundle.load(folder)
    content, _ = loaded.read(model)
    if len(content) > carry_max_bytes:
        return Package({}, str(folder.resolve()))
    files = {MANIFEST: (folder / MANIFEST).read_bytes(), loaded.spec(model).file: content}
    sample = loaded.sample()
    if sample is not None:
        files[str(loaded.manifest.observation.sample)] = sample
    return Package(files, None)


def unpack(package: Package, folder: Path) -> Path:
    """The bundle's folder on this node; carried files are written into ``folder``."""
    if package.folder is not None:
        return Path(package.folder)
    for name, content in package.files.items():
        (folder / name).write_bytes(content)
    return folder
