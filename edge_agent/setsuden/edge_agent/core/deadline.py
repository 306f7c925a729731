"""When an event comes due, over restarts, reboots and clocks that are set.

Within one boot of the device the monotonic clock says when a number of seconds has passed,
whatever the wall clock does. A moment of the world's clock, and anything after a reboot, needs
the cloud's clock: the device's measured offset from it. Until that is known the wall clock must
do; the deadline is then unverified, and after a reboot it never lies further ahead than the event
was given when it was accepted.
"""

from __future__ import annotations

from typing import NamedTuple

from setsuden.schemas.event import Event

NS_PER_MS = 1_000_000


class Clocks(NamedTuple):
    """The present on every clock the device has, nanoseconds."""

    boot: str
    """Names the boot that the monotonic clock counts from."""
    mono_ns: int
    wall_ns: int
    cloud_ns: int | None
    """The cloud's clock, where the device's offset from it is known."""


class Deadline(NamedTuple):
    """One moment on every clock, as it was known when the event was accepted."""

    boot: str
    mono_ns: int
    wall_ns: int
    cloud_ns: int | None
    allowed_ns: int
    """From the event's acceptance to the deadline."""
    absolute: bool
    """The application named a moment, not a number of seconds."""


class Due(NamedTuple):
    """A deadline on the monotonic clock of now."""

    mono_ns: int
    verified: bool
    """False where the device's wall clock had to be believed."""


def in_time(clocks: Clocks, left_ns: int) -> Deadline:
    """The deadline so long from now."""
    cloud = None if clocks.cloud_ns is None else clocks.cloud_ns + left_ns
    mono, wall = clocks.mono_ns + left_ns, clocks.wall_ns + left_ns
    return Deadline(clocks.boot, mono, wall, cloud, left_ns, absolute=False)


def at_moment(clocks: Clocks, moment_ns: int) -> Deadline:
    """The deadline at a moment of the world's clock, nanoseconds since 1970."""
    present = clocks.wall_ns if clocks.cloud_ns is None else clocks.cloud_ns
    left = moment_ns - present
    mono, wall = clocks.mono_ns + left, clocks.wall_ns + left
    return Deadline(clocks.boot, mono, wall, moment_ns, max(0, left), absolute=True)


def of_event(
    event: Event, clocks: Clocks, stored_ns: int | None, default_seconds: float | None
) -> Deadline | None:
    """The event's own, the sooner of two; else what its pipeline gives to all.

    A time to live counts from when the event was stored, by the cloud's clock.
    """
    own = []
    if event.ttl_ms is not None:
        own.append(in_time(clocks, event.ttl_ms * NS_PER_MS - _waited_ns(clocks, stored_ns)))
    if event.deadline is not None:
        own.append(at_moment(clocks, int(event.deadline.timestamp() * 1e9)))
    if not own and default_seconds is not None:
        own.append(in_time(clocks, int(default_seconds * 1e9)))
    return min(own, key=lambda deadline: deadline.mono_ns, default=None)


def _waited_ns(clocks: Clocks, stored_ns: int | None) -> int:
    if stored_ns is None or clocks.cloud_ns is None:
        return 0
    return max(0, clocks.cloud_ns - stored_ns)


def due(deadline: Deadline, clocks: Clocks) -> Due:
    """When an accepted event comes due, by the best clock that is known now."""
    same_boot = deadline.boot == clocks.boot
    if same_boot and not deadline.absolute:
        return Due(deadline.mono_ns, verified=True)
    if clocks.cloud_ns is not None and deadline.cloud_ns is not None:
        return Due(clocks.mono_ns + deadline.cloud_ns - clocks.cloud_ns, verified=True)
    if same_boot:
        return Due(deadline.mono_ns, verified=False)
    left = min(deadline.wall_ns - clocks.wall_ns, deadline.allowed_ns)
    return Due(clocks.mono_ns + left, verified=False)
