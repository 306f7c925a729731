"""Tables of figures that are shipped beside the code, read once and checked like a user's own."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import TypeVar

from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound=BaseModel)


def table(name: str, model: type[ModelT]) -> ModelT:
    """The shipped file as ``model``; a mistake in it is ours, and raises ValidationError."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return model.model_validate(tomllib.loads(text))
