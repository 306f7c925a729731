"""Sources that answer slowly or in their own time: a thread waits for them, the meter never does.

``read()`` gives the newest value with the moment it was measured at. So two readings in a row can
be the same one, and a value that has stopped coming is a problem, not repeated for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from setsuden.energy.domain import Domain, Reading
from setsuden.energy.host.system import Clock

STALE_INTERVALS = 3.0
"""A value older than so many intervals says nothing about now."""
FIRST_SECONDS = 0.25
"""The first reading waits so long for the first answer: a plug nearby takes some milliseconds,
and a start must not hang on one that is away."""
LEAVE_SECONDS = 0.2
"""How long closing waits for a thread that is in the middle of a question; it is a daemon."""


class Value(NamedTuple):
    """A number and when it was true."""

    at_ns: int
    value: float


Ask = Callable[[], Value]
"""Asks once; raises OSError or ValueError, in words."""


class Newest:
    """The newest value; written by the source's thread, read by the meter's.

    Each field is replaced whole, so no lock is needed.
    """

    def __init__(self) -> None:
        self.value: Value | None = None
        self.problem = ""
        self.arrived = threading.Event()
        """Set at the first value or problem."""

    def put(self, value: Value) -> None:
        """Here is a value; its moment never steps back, whatever the device's clock does."""
        before = self.value
        at_ns = value.at_ns if before is None else max(value.at_ns, before.at_ns)
        self.value, self.problem = Value(at_ns, value.value), ""
        self.arrived.set()

    def fail(self, problem: str) -> None:
        """There is no value, and why."""
        self.problem = problem
        self.arrived.set()


Work = Callable[[Newest, threading.Event], None]
"""Feeds the newest value until the event is set."""


def judged(domain: Domain, newest: Newest, now_ns: int) -> Reading:
    """The newest value unless it is too old for a source that tells one every interval."""
    value = newest.value
    if value is None:
        return Reading(domain.id, now_ns, None, newest.problem or "no answer yet")
    age = (now_ns - value.at_ns) / 1e9
    if age > STALE_INTERVALS * domain.interval_seconds:
        why = newest.problem or "nothing new comes"
        return Reading(domain.id, now_ns, None, f"{why}; the newest value is {age:.1f} s old")
    return Reading(domain.id, value.at_ns, value.value)


class Background:
    """A sensor of one domain whose values a thread of its own brings."""

    def __init__(self, domain: Domain, work: Work, clock: Clock) -> None:
        self.domains: tuple[Domain, ...] = (domain,)
        self._domain = domain
        self._clock = clock
        self._newest = Newest()
        self._stop = threading.Event()
        self._asked = False
        self._thread = threading.Thread(
            target=work, args=(self._newest, self._stop), name=f"energy-{domain.id}", daemon=True
        )
        self._thread.start()

    def read(self) -> list[Reading]:
        """The newest value; only the first call may wait, ``FIRST_SECONDS`` at most."""
        if not self._asked:
            self._asked = True
            self._newest.arrived.wait(FIRST_SECONDS)
        return [judged(self._domain, self._newest, self._clock.monotonic_ns())]

    def close(self) -> None:
        """End the thread, or leave it to end with its last question."""
        self._stop.set()
        self._thread.join(LEAVE_SECONDS)


def polling(ask: Ask, clock: Clock, seconds: float) -> Work:
    """Work that asks every ``seconds``, counted from question to question."""

    def work(newest: Newest, stop: threading.Event) -> None:
        while not stop.is_set():
            began = clock.monotonic_ns()
            _ask_once(ask, newest)
            took = (clock.monotonic_ns() - began) / 1e9
            clock.wait(stop, max(0.0, seconds - took))

    return work


def _ask_once(ask: Ask, newest: Newest) -> None:
    try:
        value = ask()
    except (OSError, ValueError) as error:
        newest.fail(str(error) or type(error).__name__)
    else:
        newest.put(value)


def timed(ask: Callable[[], float], clock: Clock) -> Ask:
    """The answer holds for the middle of the question: half the round trip is the most it errs."""

    def asked() -> Value:
        began = clock.monotonic_ns()
        value = ask()
        return Value((began + clock.monotonic_ns()) // 2, value)

    return asked
