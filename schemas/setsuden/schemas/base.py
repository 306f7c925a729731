"""The two strictnesses every model of the contract has."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints

TOKEN_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"  # noqa: S105  # a grammar, not a secret
Token = Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)]
"""One NATS subject token: letters, digits, ``_`` and ``-``, at most 64 of them."""

ShortText = Annotated[str, StringConstraints(max_length=256)]


class Model(BaseModel):
    """Declared by a person (configuration, bundle): unknown keys are refused."""

    # A validation error would quote its input, and with it a password or a payload.
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )
    RETIRED: ClassVar[Mapping[str, str]] = {}
    """Options of earlier versions, and the value that each is fixed at now."""


class WireModel(BaseModel):
    """Sent between versions of us: unknown keys of a newer sender are ignored."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class Word(StrEnum):
    """An enumeration of words on the wire.

    Writing a result as JSON reads ``value`` eight times, and StrEnum's own takes twice as long.
    """

    @property
    def value(self) -> str:
        """The word itself."""
        return self._value_


ModelT = TypeVar("ModelT", bound=BaseModel)

_PARTS = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
# A quarter less time than with object.__setattr__, which looks each of them up along the MRO.
_set_fields, _set_given, _set_extra, _set_private = (vars(BaseModel)[n].__set__ for n in _PARTS)


def trusted(model: type[ModelT], /, **fields: object) -> ModelT:
    """An instance of values we made ourselves, without validation.

    Every field must be given. A third of the time of ``Model.model_construct(…)``, which looks at
    every field in Python, and no ``float`` or ``tuple`` is looked at again as in ``Model(…)``:
    for what is built thousands of times a second.
    """
    made = object.__new__(model)
    _set_fields(made, fields)
    _set_given(made, _names(model))
    _set_extra(made, None)
    _set_private(made, None)
    return made


@cache
def _names(model: type[BaseModel]) -> set[str]:
    """Shared by all instances: models are frozen, and a copy copies it."""
    return set(model.model_fields)
