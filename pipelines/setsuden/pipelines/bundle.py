"""A bundle folder read and checked: ``bundle.toml`` and the files it names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from setsuden.schemas.bundle import Manifest, ModelSpec
from setsuden.schemas.errors import BundleError
from setsuden.schemas.result import ModelRef

from .config import load_toml, validate

MANIFEST = "bundle.toml"
MAX_MODEL_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder, its manifest, and nothing loaded yet."""

    folder: Path
    manifest: Manifest

    def spec(self, model: str) -> ModelSpec:
        """The named model's part of the manifest; raises BundleError."""
        found = self.manifest.models.get(model)
        if found is None:
            raise BundleError(
                f"bundle {self.manifest.name} has no model {model!r}",
                remedy=f"choose one of {', '.join(sorted(self.manifest.models))}",
            )
        return found

    def read(self, model: str) -> tuple[bytes, ModelRef]:
        """The model file's bytes, whose digest was checked, and its reference.

        Raises BundleError when the file is missing, too large or not the declared one.
        """
        spec = self.spec(model)
        content = _content(self.folder / spec.file)
        digest = hashlib.sha256(content).hexdigest()
        if spec.sha256 is not None and digest != spec.sha256:
            raise BundleError(
                f"{spec.file} is not the file that models.{model}.sha256 declares",
                remedy="restore the bundle, or correct the digest if the change was meant",
            )
        return content, ModelRef(
            bundle=self.manifest.name, version=self.manifest.version, model=model, digest=digest
        )


def load(folder: Path) -> Bundle:
    """Read ``folder/bundle.toml``; raises BundleError naming the line and key at fault."""
    document = load_toml(folder / MANIFEST, BundleError)
    return Bundle(folder, validate(Manifest, document, BundleError))


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise BundleError(f"{path.name} has {size} bytes, over the limit of 2 GiB")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"cannot read model file {path.name}: {error.strerror}",
            remedy=f"put it beside {MANIFEST}",
        ) from error
