"""SIGHUP: read the configuration file again and take up what a running process can.

Live are the log level, what the link logs in with, and, on agent and worker, the pipelines. All
else needs a restart, and the log names it. A file that is wrong, or a bundle that cannot be used,
changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from setsuden.link import Link, LinkOptions
from setsuden.schemas.errors import ConfigError, SetsudenError, UnavailableError
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


OUTCOME_FILE = "reload.json"
"""In the state folder."""
_LOOK_SECONDS = 0.05
ConfigT = TypeVar("ConfigT", bound=Reloadable)


class PreparedChange(NamedTuple):
    """What a reload is about to change, prepared and found to be good."""

    apply: Callable[[], None]
    applied: Sequence[str] = ()
    """What will be in force then."""
    restart: Sequence[str] = ()
    """What differs and needs a restart."""


class ReloadOutcome(NamedTuple):
    """What came of one reload."""

    began_ns: int
    """On the monotonic clock, which all processes of a machine share."""
    applied: Sequence[str] = ()
    restart_needed: Sequence[str] = ()
    code: str = ""
    message: str = ""
    """Why it was refused; empty when it was not."""
    remedy: str = ""

    def write(self, path: Path) -> None:
        """Leave it for ``setsuden agent reload``; a full disk keeps nobody from reloading."""
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(self._asdict()), encoding="utf-8")
            fresh.replace(path)
        except OSError as error:
            log.warning("reload_outcome_unwritten", detail=str(error))


def read_outcome(path: Path) -> ReloadOutcome | None:
    """The newest outcome; None when there is none that can be read."""
    with suppress(OSError, ValueError, TypeError):
        return ReloadOutcome(**json.loads(path.read_text(encoding="utf-8")))
    return None


def request(lock: Path, outcome_file: Path, patience_seconds: float) -> ReloadOutcome:
    """Have the process that holds ``lock`` reload, and wait for what comes of it.

    Raises UnavailableError when none holds it, or when the outcome does not come in time.
    """
    pid = _holder(lock)
    if pid is None:
        raise UnavailableError(
            f"no process uses {lock.parent}", remedy="start it: it reads its files then"
        )
    asked_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and _holder(lock) == pid:
        outcome = read_outcome(outcome_file)
        if outcome is not None and outcome.began_ns >= asked_ns:
            return outcome
        time.sleep(_LOOK_SECONDS)
    raise UnavailableError(
        f"process {pid} was asked to reload and has not said what came of it",
        remedy="look at its log for config_reloaded or reload_refused",
    )


def _holder(lock: Path) -> int | None:
    """Who holds a lock file that carries its holder's process id.

    The file must be open in that process: after a full disk it may carry the id of a former one,
    which may be anybody's by now.
    """
    try:
        pid = int(lock.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return pid if _has_open(pid, lock) else None


def _has_open(pid: int, path: Path) -> bool:
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            if entry.samefile(path):
                return True
    return False


class Reloader(Generic[ConfigT]):
    """Takes up a changed configuration file, or refuses it whole."""

    def __init__(
        self,
        config: ConfigT,
        load: Callable[[], ConfigT] | None,
        link: Link | None,
        manager: ServiceManager,
        *,
        pipelines: Callable[[ConfigT], Awaitable[PreparedChange]] | None = None,
        outcome_file: Path | None = None,
    ) -> None:
        """``load`` reads the file as the start did; without it only files it names are read again.

        ``pipelines`` prepares what has changed of them, and raises SetsudenError.
        """
        self._config, self._load = config, load
        self._link, self._manager = link, manager
        self._prepare, self._outcome_file = pipelines, outcome_file
        self._level = config.log_level
        self._live = {"log_level"}
        if link is not None:
            self._live |= {f"nats.{name}" for name in _credential_fields(config.nats)}
        self._credentials = _digests(config.nats, strict=False)
        self._reloading: asyncio.Task[None] | None = None
        self._again = False

    def install(self) -> None:
        """Answer SIGHUP from now on; it ends the process no more."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
        # A command may hold it back while it starts; one that came meanwhile is answered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def _on_hangup(self) -> None:
        """One reload at a time; one that is asked for meanwhile follows it."""
        self._again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._run(), name="reload")

    async def _run(self) -> None:
        while self._again:
            self._again = False
            self._manager.reloading()
            try:
                outcome = await self._reload(time.monotonic_ns())
                if self._outcome_file is not None:
                    outcome.write(self._outcome_file)
            finally:
                self._manager.ready()

    async def _reload(self, began_ns: int) -> ReloadOutcome:
        """Read, compare, prepare, apply, and log what was done."""
        try:
            config = self._config if self._load is None else self._load()
            credentials = _digests(config.nats, strict=True)
            change = PreparedChange(lambda: None)
            if self._prepare is not None:
                change = await self._prepare(config)
        except SetsudenError as error:
            log.error("reload_refused", detail=str(error), remedy=error.remedy)  # noqa: TRY400  # the message names the place
            return ReloadOutcome(began_ns, (), (), error.code, error.message, error.remedy)
        except Exception as error:  # a mistake of ours must not end what works
            log.exception("reload_failed")
            return ReloadOutcome(began_ns, (), (), "internal", repr(error))
        change.apply()
        applied = [*self._set_level(config.log_level), *self._log_in(config.nats, credentials)]
        applied += change.applied
        restart = sorted([*self._needs_restart(config), *change.restart])
        log.info("config_reloaded", applied=applied, restart_needed=restart)
        return ReloadOutcome(began_ns, applied, restart)

    def _needs_restart(self, config: ConfigT) -> set[str]:
        changed = _changed(self._config, config) - self._live
        if self._prepare is None:
            return changed
        return {name for name in changed if not name.startswith("pipelines.")}

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
