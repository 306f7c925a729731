"""Joules of what serves the workers: Ray around its replicas, the span bridge. All overhead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from setsuden.energy import Meter
from setsuden.energy.host.cpu import FollowedCpu, ProcessCpu
from setsuden.energy.host.system import Host
from setsuden.energy.open import Identity, fingerprint, open_meter, resolved
from setsuden.schemas.windows import Component
from setsuden.services.config import CloudConfig
from setsuden.telemetry.resource import host_id

WINDOW_SECONDS = 5.0
"""Finding the processes reads all of ``/proc``: 2 ms."""
RAY = "ray"
_REPLICA = b"ray::ServeReplica"
_MODEL = b"setsuden.pipelines.models.model_child"
"""A model's own process: its replica's meter counts it."""


def platform_meter(config: CloudConfig, base: Path, find: Callable[[], list[int]]) -> Meter:
    """A meter of the processes that ``find`` lists; the replicas have meters of their own."""
    process = FollowedCpu(Host().root, lambda: [pid for pid in find() if not _replica(pid)])
    return side_meter(config, base, RAY, process)


def side_meter(
    config: CloudConfig, base: Path, name: str, process: ProcessCpu | None = None
) -> Meter:
    """A meter of a process, else of this one, that runs no model and reserves no machine.

    It answers for no idle power: the workers' reservations do.
    """
    state = base / config.state
    wanted = resolved(config.energy, base, state, state / name)
    windows = {"window_seconds": WINDOW_SECONDS, "idle_window_seconds": WINDOW_SECONDS}
    options = wanted.model_copy(update={"reserved_share": None, **windows})
    return open_meter(
        options,
        Identity(Component.CLOUD, name, host_id(config.traces), fingerprint(config)),
        process=process,
        reserved=0.0,
    )


def _replica(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return command.startswith(_REPLICA) or _MODEL in command
    except OSError:
        return True
