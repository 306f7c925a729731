"""A bundle folder read and checked: ``bundle.toml`` and the files it names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from setsuden.process.config import load_toml, validate
from setsuden.schemas.bundle import Manifest, ModelSpec
from setsuden.schemas.errors import BundleError
from setsuden.schemas.result import ModelRef

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
        content = read_model(self.folder / spec.file)
        ref = self.ref(model, content)
        if spec.sha256 is not None and ref.digest != spec.sha256:
            raise BundleError(
                f"{self.folder / spec.file} is not the file that models.{model}.sha256 declares",
                remedy="restore the bundle, or correct the digest if the change was meant",
            )
        return content, ref

    def ref(self, model: str, content: bytes) -> ModelRef:
        """The name under which results tell of this model."""
        digest = hashlib.sha256(content).hexdigest()
        return ModelRef(
            bundle=self.manifest.name, version=self.manifest.version, model=model, digest=digest
        )

    def sample(self) -> bytes | None:
        """The recorded observation as it travels, if the bundle has one; raises BundleError."""
        declared = self.manifest.observation
        if declared.sample is None:
            return None
        try:
            with (self.folder / declared.sample).open("rb") as file:
                content = file.read(declared.nbytes + 1)
        except OSError as error:
            raise BundleError(
                f"cannot read the sample {self.folder / declared.sample}: {error.strerror}",
                remedy=f"put it beside {MANIFEST}",
            ) from error
        if len(content) != declared.nbytes:
            raise BundleError(
                f"the sample {declared.sample} has not the {declared.nbytes} bytes of "
                f"{declared.dtype} {list(declared.shape)}",
                remedy="record exactly one observation, as events carry it",
            )
        return content


def load(folder: Path) -> Bundle:
    """Read ``folder/bundle.toml``; raises BundleError naming the line and key at fault."""
    document = load_toml(folder / MANIFEST, BundleError)
    return Bundle(folder, validate(Manifest, document, BundleError))


def read_model(path: Path) -> bytes:
    """A model file's bytes; raises BundleError when it is missing or too large."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise BundleError(f"{path} has {size} bytes, over the limit of 2 GiB")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"cannot read model file {path}: {error.strerror}",
            remedy=f"put it beside {MANIFEST}",
        ) from error
