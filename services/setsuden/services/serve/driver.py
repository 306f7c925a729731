"""The one process that talks to Ray: deploys, proves that Ray still answers, deletes.

It is a child of the supervisor because Ray ends its drivers some time after the death of the
GCS, and because a call into a dying cluster may never return. Its orders come as one line on
standard input; what it proves goes, a line each, to what was standard output.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import ray
from ray import serve

from setsuden.process import logs
from setsuden.schemas.log import get_logger
from setsuden.services.config import CloudConfig

from . import app

log = get_logger(__name__)
PROBE_SECONDS = 2.0
"""How often the driver proves that Ray still answers."""
_STORE_BYTES = 100_000_000
"""Object store of the local Ray; nothing of ours goes through it."""
FAILED_EXIT = 3
_MAX_DETAIL = 500


class Stopped(BaseException):
    """SIGTERM: unwinds whatever call into Ray is waiting."""


class Driver:
    """Orders carried out against one cluster."""

    def __init__(self, order: dict[str, Any], proofs: IO[str]) -> None:
        self._config = CloudConfig.model_validate(order["config"])
        self._base = Path(order["base"])
        self._address: str | None = order["address"]
        self._temporary: str = order["temporary"]
        self._proofs = proofs

    def run(self) -> int:
        """Deploy, then prove until told to stop or an application is lost."""
        try:
            self._connect()
            on_stop()  # Ray put its own handler there
            self._deploy()
            return self._prove()
        except Stopped:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._delete()
            return 0
        except Exception as error:  # whatever Ray raises, the supervisor's log must name it
            log.debug("driver_failed", exc_info=True)
            self._say("failed", detail=f"{type(error).__name__}: {error}"[:_MAX_DETAIL])
            return FAILED_EXIT

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self._address is None:
            options |= self._local()
        ray.init(address=self._address or "local", namespace="setsuden", **options)

    def _local(self) -> dict[str, Any]:
        options = self._config.serve
        wanted = options.max_replicas * options.num_cpus * len(self._config.pipelines)
        return {
            "num_cpus": max(1, round(wanted + 0.5)),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": self._temporary,
            "_node_ip_address": "127.0.0.1",
        }

    def _deploy(self) -> None:
        serve.start(proxy_location="Disabled")
        for pipeline in self._config.pipelines:
            built = app.application(self._config, self._base, pipeline)
            serve.run(built, name=app.name_of(pipeline.name), route_prefix=None)
        self._say("ready", replicas=self._replicas())

    def _prove(self) -> int:
        unhealthy_since: float | None = None
        while True:
            time.sleep(PROBE_SECONDS)
            alive = [node for node in _nodes() if node["Alive"]]
            if not alive:
                log.error("nodes_lost")
                return FAILED_EXIT
            replicas = self._replicas()  # asks the Serve controller
            lost = self._lost()
            self._say("alive", nodes=len(alive), replicas=replicas)
            now = time.monotonic()
            unhealthy_since = (unhealthy_since or now) if lost else None
            if unhealthy_since and now - unhealthy_since > self._config.serve.ready_seconds:
                log.error("applications_lost", names=lost)
                return FAILED_EXIT

    def _lost(self) -> list[str]:
        """Applications that are gone or not running."""
        found = serve.status().applications
        names = [app.name_of(pipeline.name) for pipeline in self._config.pipelines]
        return [name for name in names if name not in found or found[name].status != "RUNNING"]

    def _replicas(self) -> int:
        ours = {app.name_of(pipeline.name) for pipeline in self._config.pipelines}
        return sum(
            count
            for name, found in serve.status().applications.items()
            for deployment in found.deployments.values()
            for state, count in deployment.replica_states.items()
            if name in ours and state == "RUNNING"
        )

    def _delete(self) -> None:
        """Our applications go; a cluster that is not ours stays."""
        if not ray.is_initialized():
            return
        for pipeline in self._config.pipelines:
            serve.delete(app.name_of(pipeline.name))
        if self._address is None:
            serve.shutdown()  # type: ignore[no-untyped-call]  # ray's decorator hides its types
            ray.shutdown()

    def _say(self, proof: str, **facts: int | str) -> None:
        self._proofs.write(json.dumps({"proof": proof} | facts) + "\n")
        self._proofs.flush()


def _nodes() -> list[dict[str, Any]]:
    """Asks the GCS, which may never answer: the supervisor waits only so long for a proof."""
    return list(ray.nodes())  # type: ignore[no-untyped-call]  # ray's decorator hides its types


def on_stop() -> None:
    """SIGTERM raises :class:`Stopped` in the main thread."""

    def stop(number: int, frame: object) -> None:  # noqa: ARG001  # signal's signature
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


def _end_with_parent() -> None:
    """The supervisor holds the other end of standard input; when it is gone, so are we."""
    while os.read(0, 4096):  # a buffered read would hold a lock that the interpreter wants
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _order() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            raise SystemExit("no order came")
        line += piece
    return line


def main() -> int:
    """Read the order, take over standard output, carry it out."""
    order = json.loads(_order())
    proofs = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints is not a proof
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    on_stop()
    logs.configure(order["config"]["log_level"])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return Driver(order, proofs).run()


if __name__ == "__main__":
    sys.exit(main())
