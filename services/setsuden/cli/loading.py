"""Configuration files as a command line means them: flags over environment over file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

    from setsuden.edge_agent.config import AgentConfig
    from setsuden.process.config import Document
    from setsuden.services.config import CloudConfig

AGENT, CLOUD, BUNDLE = "agent", "cloud", "bundle"
_BUNDLE_KEYS = frozenset({"models", "classes", "observation"})
F = TypeVar("F", bound=Callable[..., Any])


def config_option(default: str) -> Callable[[F], F]:
    """``--config FILE``, also from ``SETSUDEN_CONFIG``."""
    return click.option(
        "--config",
        "-c",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="SETSUDEN_CONFIG",
        default=default,
        show_default=True,
        help="Configuration file.",
    )


def set_option(function: F) -> F:
    """``--set key=value``, as often as needed."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Lay one value over the file, as in --set nats.urls=nats://host:4222. Repeatable.",
    )(function)


def load_agent(path: Path, assignments: Sequence[str] = ()) -> AgentConfig:
    """``agent.toml`` with environment and flags; raises ConfigError."""
    from setsuden.edge_agent.config import AgentConfig  # noqa: PLC0415  # pydantic and more
    from setsuden.process.config import validate  # noqa: PLC0415

    config = validate(AgentConfig, laid_over(path, AgentConfig, assignments))
    return config.model_copy(update={"nats": config.nats.resolved(path.parent)})


def load_cloud(path: Path, assignments: Sequence[str] = ()) -> CloudConfig:
    """``cloud.toml`` with environment and flags; raises ConfigError."""
    from setsuden.process.config import validate  # noqa: PLC0415
    from setsuden.services.config import CloudConfig  # noqa: PLC0415

    config = validate(CloudConfig, laid_over(path, CloudConfig, assignments))
    return config.model_copy(update={"nats": config.nats.resolved(path.parent)})


def laid_over(path: Path, model: type[BaseModel], assignments: Sequence[str]) -> Document:
    """The file with environment and flags laid over it; raises ConfigError."""
    from setsuden.process.config import load_toml  # noqa: PLC0415

    return overlay(load_toml(path), model, assignments)


def overlay(document: Document, model: type[BaseModel], assignments: Sequence[str]) -> Document:
    """The document with environment and flags laid over it; raises ConfigError.

    Variables of the other tier's options are left to it: agent and worker may share a machine.
    """
    from setsuden.process.config import with_environment, with_flag  # noqa: PLC0415

    foreign = {key for kind in (AGENT, CLOUD) for key in model_of(kind).model_fields}
    document = with_environment(document, os.environ, model, foreign)
    for assignment in assignments:
        document = with_flag(document, assignment, model)
    return document


def kind_of(path: Path, text: str) -> str:
    """Which of our files this is, by its keys, and by its name where they do not tell."""
    try:
        keys = frozenset(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        keys = frozenset()
    if keys & _BUNDLE_KEYS or path.name == "bundle.toml":
        return BUNDLE
    agent, cloud = (len(keys & own) for own in _own_keys())
    if agent != cloud:
        return AGENT if agent > cloud else CLOUD
    return CLOUD if "cloud" in path.name or "worker" in path.name else AGENT


def model_of(kind: str) -> type[BaseModel]:
    """The model that such a file is read as."""
    from setsuden.edge_agent.config import AgentConfig  # noqa: PLC0415
    from setsuden.schemas.bundle import Manifest  # noqa: PLC0415
    from setsuden.services.config import CloudConfig  # noqa: PLC0415

    models: dict[str, type[BaseModel]] = {AGENT: AgentConfig, CLOUD: CloudConfig, BUNDLE: Manifest}
    return models[kind]


def link_name(config: AgentConfig | CloudConfig) -> str:
    """As whom the configured process itself connects: the broker may allow its inbox alone."""
    device: str | None = getattr(config, "device", None)
    return device or f"worker-{config.pipelines[0].name}"


def _own_keys() -> tuple[frozenset[str], frozenset[str]]:
    """Keys that only an agent's file has, and those that only a cloud's has."""
    agent, cloud = (frozenset(model_of(kind).model_fields) for kind in (AGENT, CLOUD))
    return agent - cloud, cloud - agent
