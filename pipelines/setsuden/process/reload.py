"""SIGHUP: read the configuration file again and take up what a running process can.

Live are the log level and what the link logs in with. All else needs a restart, and the log names
it. A file that is wrong changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from setsuden.link import Link, LinkOptions
from setsuden.schemas.errors import ConfigError, SetsudenError
from setsuden.schemas.log import get_logger

from .service import ServiceManager

log = get_logger(__name__)


class Reloadable(Protocol):
    """**Protocol:** a process's configuration as far as a reload knows it."""

    @property
    def log_level(self) -> str:
        """The lowest level that is written."""
        ...

    @property
    def nats(self) -> LinkOptions:
        """How to reach the broker."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Pydantic's."""
        ...


ConfigT = TypeVar("ConfigT", bound=Reloadable)


class Reloader(Generic[ConfigT]):
    """Takes up a changed configuration file, or refuses it whole."""

    def __init__(
        self,
        config: ConfigT,
        load: Callable[[], ConfigT] | None,
        link: Link | None,
        manager: ServiceManager,
    ) -> None:
        """``load`` reads the file as the start did; without it only credentials are read again."""
        self._config, self._load = config, load
        self._link, self._manager = link, manager
        self._level = config.log_level
        self._live = {"log_level"}
        if link is not None:
            self._live |= {f"nats.{name}" for name in _credential_fields(config.nats)}
        self._credentials = _digests(config.nats, strict=False)

    def install(self) -> None:
        """Answer SIGHUP from now on; it ends the process no more."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
        # A command may hold it back while it starts; one that came meanwhile is answered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def reload(self) -> None:
        """Read, compare, apply, and log what was done."""
        self._manager.reloading()
        try:
            config = self._config if self._load is None else self._load()
            credentials = _digests(config.nats, strict=True)
        except SetsudenError as error:
            log.error("reload_refused", detail=str(error), remedy=error.remedy)  # noqa: TRY400  # the message names the place
        else:
            applied = [*self._set_level(config.log_level), *self._log_in(config.nats, credentials)]
            restart = sorted(_changed(self._config, config) - self._live)
            log.info("config_reloaded", applied=applied, restart_needed=restart)
        self._manager.ready()

    def _set_level(self, level: str) -> Iterator[str]:
        if level != self._level:
            self._level = level
            logging.getLogger().setLevel(level.upper())
            yield "log_level"

    def _log_in(self, options: LinkOptions, credentials: dict[str, str]) -> Iterator[str]:
        if self._link is None or credentials == self._credentials:
            return
        names = credentials.keys() | self._credentials.keys()
        self._credentials, before = credentials, self._credentials
        self._link.reopen({name: getattr(options, name) for name in _credential_fields(options)})
        yield from sorted(
            f"nats.{name}" for name in names if before.get(name) != credentials.get(name)
        )


def _credential_fields(options: LinkOptions) -> list[str]:
    """Options that say who we are and whom we trust: the user and every file."""
    return [name for name in type(options).model_fields if name == "user" or name.endswith("_file")]


def _digests(options: LinkOptions, *, strict: bool) -> dict[str, str]:
    """A digest of each credential by its option's name; raises ConfigError when ``strict``."""
    found: dict[str, str] = {}
    for name in _credential_fields(options):
        value = getattr(options, name)
        if value is None:
            continue
        try:
            content = value.encode() if name == "user" else Path(value).read_bytes()
        except OSError as error:
            if strict:
                raise ConfigError(
                    f"nats.{name}: cannot read {value}: {error.strerror}",
                    remedy="put it back and send SIGHUP again; until then the old one holds",
                ) from error
            continue
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _changed(before: Reloadable, after: Reloadable) -> set[str]:
    """Dotted names of all options that differ."""
    old, new = (dict(_flat(config.model_dump(mode="json"), "")) for config in (before, after))
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, part in enumerate(value):
            yield from _flat(part, f"{name}.{index}")
    else:
        yield name, value
