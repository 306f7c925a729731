"""A model's own process, the thread that waits for it, and how often it may be started anew."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .failure import HARMFUL, FailureKind, RunFailedError, TrialError
from .model_process import CpuAccount, ModelProcess, Order
from .run_thread import RunThread
from .session import Run

Array = NDArray[Any]


class RestartPolicy(NamedTuple):
    """How often a model may end its process before it has to rest."""

    at_once: int
    seconds_each: float
    """One more death is forgiven each time so much has passed."""
    waits: bool
    """While it rests a run waits (True), or fails as suspended (False)."""


class Restarts:
    """A budget of deaths that fills up with time."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._left, self._at = float(policy.at_once), time.monotonic()

    def spend(self, deaths: float) -> None:
        """It died; what took long to die may count for several."""
        self._left = self._now() - deaths

    def pause_seconds(self) -> float:
        """How long it has to rest; 0 when it may run."""
        return max(0.0, 1.0 - self._now()) * self._policy.seconds_each

    def _now(self) -> float:
        now = time.monotonic()
        gained = (now - self._at) / self._policy.seconds_each
        self._left, self._at = min(float(self._policy.at_once), self._left + gained), now
        return self._left


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
        # Half of the time at most is spent on waiting for a model that hangs on everything.
        self._hang_deaths = 1.0
        if not policy.waits:
            self._hang_deaths = 2 * order.limits.run_seconds / policy.seconds_each
        self._closing = False

    def run(self, batch: Array) -> Run:
        """One run; raises RunFailedError, or TrialError for a model that does not open again."""
        self._rest()
        try:
            return self.process.run(batch)
        except RunFailedError as error:
            if error.failure.kind in HARMFUL or error.failure.kind is FailureKind.SUSPENDED:
                hung = error.failure.kind is FailureKind.TIMED_OUT
                self._restarts.spend(self._hang_deaths if hung else 1.0)
            raise
        except TrialError:
            self._restarts.spend(1.0)
            raise

    def _rest(self) -> None:
        while (seconds := self._restarts.pause_seconds()) and not self._closing:
            if not self._policy.waits:
                words = f"its process ended too often; tried again in {seconds:.0f} s"
                raise RunFailedError(FailureKind.SUSPENDED, words)
            time.sleep(seconds)

    def close(self) -> None:
        """Let thread and process go; does not wait for a model that hangs."""
        self._closing = True
        self.thread.stop()
        self.process.kill()

    def _is_idle_spare(self) -> bool:
        return self.spare and self.process.running
