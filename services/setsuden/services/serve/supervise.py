"""``setsuden cloud run``: keeps the Serve application up over any death inside Ray.

JetStream holds the truth and Ray is disposable: a session that fails is killed whole and built
again; unacknowledged work is delivered again.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setsuden.energy import Meter
from setsuden.link.tasks import Backoff
from setsuden.process import logs
from setsuden.process.reload import Reloader
from setsuden.process.service import notifying, stop_signal
from setsuden.schemas.errors import MissingExtraError
from setsuden.schemas.log import get_logger
from setsuden.services import topology
from setsuden.services.config import CloudConfig
from setsuden.services.guard import Guard
from setsuden.services.platform_meter import platform_meter
from setsuden.services.stream_service import serving_alone
from setsuden.services.worker.process import first_of

from . import local
from .package import pack
from .processes import MARK, kill_marked, marked

log = get_logger(__name__)
_SILENCE_SECONDS = 15.0
"""A driver without a proof for this long is killed, and all it started."""
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
_DELETE_SECONDS = 20.0
"""Beyond the drain: how long Ray may take to delete what was deployed."""
_DRIVER = "setsuden.services.serve.driver"


def run_cloud(
    config: CloudConfig,
    base: Path,
    address: str | None = None,
    load: Callable[[], CloudConfig] | None = None,
) -> int:
    """Run every pipeline's teacher on Ray Serve until SIGTERM or SIGINT; 0 after a clean stop.

    Without ``address`` a local Ray of its own is started, and all of it stopped at the end; with
    one the application is deployed there, again after that cluster was rebuilt, and deleted at
    the end. ``load`` reads the configuration again at SIGHUP. Raises SetsudenError for what makes
    a start impossible.
    """
    logs.configure(config.log_level)
    _check_ray()
    for pipeline in config.pipelines:
        pack(base / pipeline.bundle, pipeline.teacher, config.serve.carry_max_bytes)
    return asyncio.run(_run(config, base, address, load))


def _check_ray() -> None:
    from importlib.util import find_spec  # noqa: PLC0415  # beside its one use

    if find_spec("ray") is None:
        raise MissingExtraError(
            "ray is not installed",
            remedy="pip install 'setsuden[cloud]', or run `setsuden worker run`",
        )


async def _run(
    config: CloudConfig, base: Path, address: str | None, load: Callable[[], CloudConfig] | None
) -> int:
    stop = stop_signal()
    async with notifying(lambda: "supervising Ray") as manager:
        # Replicas have links of their own, and get a new configuration with a new deployment.
        Reloader(config, load, None, manager).install()
        manager.ready()
        return await _supervise(config, base, address, stop)


async def _supervise(
    config: CloudConfig, base: Path, address: str | None, stop: asyncio.Future[None]
) -> int:
    applying = asyncio.create_task(topology.apply_when_up(config))
    await first_of(applying, stop)
    if not applying.done():
        applying.cancel()
        return 0
    for name in await applying:
        log.info("topology_applied", name_applied=name)
    async with serving_alone(config):  # it outlives Ray, and devices need it all the time
        await _keep_up(config, base, address, stop)
    log.info("cloud_stopped")
    return 0


async def _keep_up(
    config: CloudConfig, base: Path, address: str | None, stop: asyncio.Future[None]
) -> None:
    pauses = Backoff(_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
    while not stop.done():
        session = RaySession(config, base, address)
        was_ready = await session.run(stop)
        if stop.done():
            break
        if was_ready:
            pauses.reset()
        await asyncio.wait([stop], timeout=pauses.next())


class RaySession:
    """One life of a driver, and of the local Ray below it."""

    def __init__(self, config: CloudConfig, base: Path, address: str | None) -> None:
        self._config, self._base, self._address = config, base, address
        self._mark = secrets.token_hex(8)
        self._folder = local.session_folder()
        self._guard = Guard(
            MARK,
            self._mark,
            grace_seconds=config.worker.drain_seconds + _DELETE_SECONDS,
            folder=self._folder,
        )
        self._ready = False
        self._failure = ""

    async def run(self, stop: asyncio.Future[None]) -> bool:
        """Until it fails or ``stop``; leaves no process behind. True if it was ever ready."""
        driver = await self._start()
        meter = self._meter(driver.pid)
        meter.start()
        watching = asyncio.create_task(self._watch(driver))
        await first_of(watching, stop)
        if not watching.done():
            await self._stop(driver)
            watching.cancel()
        elif not stop.done():
            log.warning("cloud_lost", reason=watching.result())
        await asyncio.to_thread(meter.close)  # before its processes are gone
        await self._clear(driver)
        return self._ready

    def _meter(self, driver: int) -> Meter:
        """Of all that Ray runs here besides the replicas; this process is part of it."""

        def ours() -> list[int]:
            return [*marked(self._mark, driver), os.getpid()]

        return platform_meter(self._config, self._base, ours)

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        driver = await asyncio.create_subprocess_exec(
            sys.executable, "-m", _DRIVER,
            stdin=pipe, stdout=pipe, env=self._environment(), start_new_session=True,
        )  # fmt: skip
        order = {
            "config": self._config.model_dump(mode="json"),
            "base": str(self._base.resolve()),
            "address": self._address,
            "temporary": str(self._folder),
        }
        self._guard.watch(driver.pid)
        assert driver.stdin is not None  # noqa: S101  # opened as a pipe above
        driver.stdin.write(json.dumps(order).encode() + b"\n")
        await driver.stdin.drain()
        log.info("cloud_starting", address=self._address or "local")
        return driver

    def _environment(self) -> dict[str, str]:
        """The driver's environment: every switch of Ray that matters is set explicitly."""
        found = os.environ | {
            MARK: self._mark,
            "RAY_AUTH_MODE": self._config.serve.auth,
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            "RAY_enable_metrics_collection": "0",
        }
        if self._address is None:
            found.pop("RAY_ADDRESS", None)
            found |= local.environment(self._folder, auth=self._config.serve.auth)
        return found

    async def _watch(self, driver: asyncio.subprocess.Process) -> str:
        """Why the session is over: the driver ended or its proofs stopped coming."""
        assert driver.stdout is not None  # noqa: S101  # opened as a pipe above
        options = self._config.serve
        loop = asyncio.get_running_loop()
        deadline = loop.time() + options.ready_seconds
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    line = await driver.stdout.readline()
            except TimeoutError:
                if self._ready:
                    return f"Ray did not answer for {_SILENCE_SECONDS:g} s"
                return f"nothing was deployed within {options.ready_seconds:g} s"
            if not line:
                return self._failure or f"the driver ended with code {await driver.wait()}"
            self._take(json.loads(line))
            if self._ready:
                deadline = loop.time() + _SILENCE_SECONDS

    def _take(self, proof: dict[str, Any]) -> None:
        if proof["proof"] == "ready":
            self._ready = True
            log.info("cloud_ready", replicas=proof["replicas"])
        elif proof["proof"] == "failed":
            self._failure = proof["detail"]

    async def _stop(self, driver: asyncio.subprocess.Process) -> None:
        """Ask the driver to delete what it deployed, and wait as long as a drain may take."""
        if driver.returncode is None:
            driver.terminate()
        try:
            async with asyncio.timeout(self._config.worker.drain_seconds + _DELETE_SECONDS):
                await driver.wait()
        except TimeoutError:
            log.warning("driver_killed", reason="it did not stop in time")

    async def _clear(self, driver: asyncio.subprocess.Process) -> None:
        killed = await asyncio.to_thread(kill_marked, self._mark, driver.pid)
        await driver.wait()
        await asyncio.to_thread(self._guard.close)  # it removes the folder
        log.debug("session_cleared", killed=killed)
