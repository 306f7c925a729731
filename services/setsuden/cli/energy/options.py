"""The ``[energy]`` table as the commands of ``setsuden energy`` take it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from setsuden.cli.loading import AGENT, kind_of, load_agent, load_cloud

if TYPE_CHECKING:
    from collections.abc import Callable

    from setsuden.energy import EnergyOptions


def energy_config_option(function: Callable[..., None]) -> Callable[..., None]:
    """``--config FILE``: whose ``[energy]`` table to use; without one the defaults."""
    return click.option(
        "--config",
        "-c",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="SETSUDEN_CONFIG",
        help="agent.toml or cloud.toml, for its [energy] table.",
    )(function)


def energy_of(path: Path | None) -> EnergyOptions:
    """The table of this file with paths resolved, else the defaults; raises ConfigError."""
    from setsuden.energy import EnergyOptions  # noqa: PLC0415
    from setsuden.energy.open import resolved  # noqa: PLC0415
    from setsuden.process.config import read_text  # noqa: PLC0415  # pydantic and more

    if path is None:
        return resolved(EnergyOptions(), Path(), Path())
    agent = kind_of(path, read_text(path)) == AGENT
    config = load_agent(path) if agent else load_cloud(path)
    return resolved(config.energy, path.parent, path.parent / config.state)
