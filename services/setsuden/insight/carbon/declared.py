"""A person's own sites, machines and prices: one TOML file, refused with field and line.

::

    [profiles.lab]
    zone = "FR"
    pue = 1.0
    source = "our meter room"
    retrieved = 2026-11-23

    [embodied.lab]
    total_kg = 60.0
    lifespan_years = 6.0
    source = "the maker's life-cycle study"
    retrieved = 2026-11-23

    [prices.lab]
    euros_per_kwh = 0.21
    source = "contract of 2026"
    retrieved = 2026-11-23
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from setsuden.process.config import load_toml, validate
from setsuden.schemas.base import Model, Token

from .cost import Price
from .embodied import Embodied
from .profiles import SiteEntry


class Declarations(Model):
    """The whole file; every table is optional."""

    profiles: dict[Token, SiteEntry] = Field(default_factory=dict)
    """Sites, by the name that ``[energy] site`` gives."""
    embodied: dict[Token, Embodied] = Field(default_factory=dict)
    """Machines: by site, or by device id where a site has several kinds."""
    prices: dict[Token, Price] = Field(default_factory=dict)
    """Prices, by site."""


def load(path: Path) -> Declarations:
    """The file; raises ConfigError naming file, line, key and the nearest right name."""
    return validate(Declarations, load_toml(path))
