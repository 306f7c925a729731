"""The door to the ``[train]`` extra: torch, onnx and the ONNX Runtime quantizer, loaded on demand.

They are typed ``Any`` from here on: torch is not installed where the types are checked, and
onnxruntime ships none.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from setsuden.schemas.errors import MissingExtraError

Network = Any
"""A ``torch.nn.Module``."""

Tensor = Any
"""A ``torch.Tensor``."""


def extra(name: str) -> Any:
    """The optional module ``name``.

    Raises MissingExtraError, with the remedy, when it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as err:
        remedy = 'pip install "setsuden[train]"'
        raise MissingExtraError(f"training needs {name}", remedy=remedy) from err


def seeded_torch(seed: int) -> Any:
    """``torch`` on one thread, deterministic kernels only, its generator set to ``seed``.

    Weights come out equal on one machine and torch version; other CPUs round differently.
    """
    torch = extra("torch")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    return torch


def progress(line: str) -> None:
    """One line for the person who waits, on stderr."""
    sys.stderr.write(f"{line}\n")
