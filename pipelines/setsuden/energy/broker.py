"""The broker's joules: its process, spread over the messages it passed on.

Power does not follow a broker's message rate, so there is no coefficient per message: what its
process used in a window is divided by the messages of that window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from setsuden.energy import EnergyOptions, Meter, WorkKey
from setsuden.energy.host.cpu import FollowedCpu, named
from setsuden.energy.host.system import Host
from setsuden.energy.open import Identity, open_meter
from setsuden.energy.protocols.web import Endpoint
from setsuden.link.untrusted import json_object
from setsuden.schemas.log import get_logger
from setsuden.schemas.windows import Counts

log = get_logger(__name__)
SERVER = "nats-server"
_TIMEOUT_SECONDS = 1.0


class BrokerCounts:
    """Messages in and out, from the server's monitoring address; grows over its restarts."""

    def __init__(self, monitor_url: str) -> None:
        # Neither a redirect nor a proxy of the environment leads elsewhere.
        url = f"{monitor_url.rstrip('/')}/varz"
        self._varz = Endpoint(url, timeout_seconds=_TIMEOUT_SECONDS)
        self._ended = 0
        self._seen = 0

    def __call__(self) -> Counts:
        """The newest counts; the last known ones while the server is away."""
        found = self._ask()
        if found is not None:
            if found < self._seen:  # it began again at 0
                self._ended += self._seen
            self._seen = found
        return Counts(messages=self._ended + self._seen)

    def _ask(self) -> int | None:
        try:
            varz = json_object(self._varz.get())
            return int(varz["in_msgs"]) + int(varz["out_msgs"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            log.debug("broker_not_asked", detail=type(error).__name__)
            return None


def broker_meter(
    options: EnergyOptions,
    identity: Identity,
    counts: Callable[[], Counts],
    *,
    find: Callable[[], Iterable[int]] | None = None,
    host: Host | None = None,
) -> Meter:
    """A meter of the processes that ``find`` lists, else of every nats-server of this machine."""
    host = host or Host()
    root = host.root
    seconds = {"idle_window_seconds": options.window_seconds}  # no run of a model begins here
    return open_meter(
        options.model_copy(update=seconds),
        identity,
        host=host,
        counts=counts,
        process=FollowedCpu(root, find or (lambda: named(root, SERVER))),
        amortised=WorkKey("*", SERVER, ""),
    )
