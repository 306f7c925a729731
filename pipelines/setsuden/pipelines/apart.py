"""A model's own process, the thread that waits for it, and how often it may be started anew."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .failure import FailureKind, RunFailedError
from .model_process import CpuAccount, ModelProcess, Order
from .run_thread import RunThread
from .session import Run

Array = NDArray[Any]


class RestartPolicy(NamedTuple):
    """How often a model may end its process before it has to rest."""

    at_once: int
    seconds_each: float
    """One more start is allowed each time so much has passed."""
    waits: bool
    """Out of starts a run waits (True), or fails as suspended (False)."""


class Restarts:
    """The starts that are left."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._left, self._at = float(policy.at_once), time.monotonic()

    def take(self) -> float:
        """0 when a process may be started now, else the seconds until one may."""
        now = time.monotonic()
        gained = (now - self._at) / self._policy.seconds_each
        self._left, self._at = min(float(self._policy.at_once), self._left + gained), now
        if self._left < 1.0:
            return (1.0 - self._left) * self._policy.seconds_each
        self._left -= 1.0
        return 0.0


class Apart:
    """Runs of one model in a process of its own. All but ``close`` happens in ``thread``."""

    def __init__(
        self, name: str, order: Order, account: CpuAccount, policy: RestartPolicy, *, spare: bool
    ) -> None:
        """A ``spare`` process ends when nothing was asked of it for a while."""
        self.process = ModelProcess(order, account)
        self.spare = spare
        self.thread = RunThread(name, waits=self._is_idle_spare, on_idle=self.process.close)
        self._policy, self._restarts = policy, Restarts(policy)
        self._closing = False
        self._paid = 0

    def run(self, batch: Array) -> Run:
        """One run; raises RunFailedError, or TrialError for a model that does not open again."""
        if self.process.deaths > self._paid:
            self._wait_for_restart()
            self._paid = self.process.deaths
        return self.process.run(batch)

    def close(self) -> None:
        """Let thread and process go; does not wait for a model that hangs."""
        self._closing = True
        self.thread.stop()
        self.process.kill()

    def _wait_for_restart(self) -> None:
        while (seconds := self._restarts.take()) and not self._closing:
            if not self._policy.waits:
                words = f"its process ended too often; tried again in {seconds:.0f} s"
                raise RunFailedError(FailureKind.SUSPENDED, words)
            time.sleep(seconds)

    def _is_idle_spare(self) -> bool:
        return self.spare and self.process.running
