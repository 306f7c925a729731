"""``setsuden worker run`` for several pipelines: one process for each, and a small parent.

A teacher that hangs, floods or crashes costs its own process. The parent imports neither numpy
nor onnxruntime; it starts, listens to heartbeats, kills what is silent, and starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from setsuden.link.tasks import Backoff
from setsuden.process import logs
from setsuden.process.service import notifying, stop_signal
from setsuden.schemas.log import get_logger

from .config import CloudConfig
from .heartbeat import PIPE_VARIABLE

log = get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""Pauses between two lives double from the first to the longest."""
LONG_LIFE_SECONDS = 60.0
"""After such a life the next one begins at once."""
START_SECONDS = 600.0
"""A large model may take so long to be read and tried; the first beat ends this time."""
SLACK_SECONDS = 10.0
"""The child's own watchdog is meant to be faster, and says more."""
_RUN = "from setsuden.cli.main import main; main()"


def run_workers(config: CloudConfig, path: Path, assignments: Sequence[str]) -> int:
    """Run every pipeline's worker until SIGTERM or SIGINT; 0 after a clean stop."""
    logs.configure(config.log_level)
    return asyncio.run(_run(config, path, assignments))


async def _run(config: CloudConfig, path: Path, assignments: Sequence[str]) -> int:
    stop = stop_signal()
    options = [part for each in assignments for part in ("--set", each)]
    command = [sys.executable, "-c", _RUN, "worker", "run", "--config", str(path), *options]
    silence = config.worker.stall_seconds + SLACK_SECONDS
    children = [
        WorkerProcess(pipeline.name, [*command, "--pipeline", pipeline.name], silence)
        for pipeline in config.pipelines
    ]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _hang_up, children)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    async with notifying(lambda: _status(children)) as manager:
        tasks = [asyncio.create_task(child.keep()) for child in children]
        log.info("workers_started", pipelines=[child.name for child in children])
        manager.ready()
        await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    patience = config.worker.drain_seconds + SLACK_SECONDS
    await asyncio.gather(*(child.stop(patience) for child in children))
    log.info("workers_stopped")
    return 0 if stop.done() else 1


def _hang_up(children: Sequence[WorkerProcess]) -> None:
    """Each reads the configuration file again, or refuses it."""
    for child in children:
        child.send(signal.SIGHUP)


def _status(children: Sequence[WorkerProcess]) -> str:
    return f"{sum(child.beats for child in children)} of {len(children)} workers run"


class WorkerProcess:
    """One pipeline's worker, life after life."""

    def __init__(self, name: str, command: Sequence[str], silence_seconds: float) -> None:
        self.name = name
        self._command, self._silence = command, silence_seconds
        self._process: asyncio.subprocess.Process | None = None
        self.beats = False
        """It was heard of in this life."""

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it lives and has come so far that it heeds signals."""
        if self._process is not None and self.beats:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        loop, pauses = (
            asyncio.get_running_loop(),
            Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
        )
        while True:
            began = loop.time()
            try:
                code = await self._live()
            except OSError as error:  # no room for a process now: the others go on
                code = None
                log.error("worker_not_started", pipeline=self.name, detail=str(error))  # noqa: TRY400  # the message is sufficient
            if loop.time() - began > LONG_LIFE_SECONDS:
                pauses.reset()
            pause = pauses.next()
            log.error(
                "worker_ended", pipeline=self.name, code=code, again_in_seconds=round(pause, 1)
            )
            await asyncio.sleep(pause)

    async def _live(self) -> int:
        """One life; its exit code. Raises OSError when it cannot begin."""
        beats, end = os.pipe()
        try:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env=os.environ | {PIPE_VARIABLE: str(end)},
                    pass_fds=(end,),
                    start_new_session=True,  # a share of the cores for each; Ctrl-C through us
                )
            finally:
                os.close(end)
            await self._listen(self._process, beats)
        finally:
            os.close(beats)
            self.beats = False
        return await self._process.wait()

    async def _listen(self, process: asyncio.subprocess.Process, beats: int) -> None:
        """Until its pipe ends; kills it when no beat comes in time."""
        limit = START_SECONDS
        while True:
            try:
                async with asyncio.timeout(limit):
                    await _readable(beats)
            except TimeoutError:
                log.error("worker_silent", pipeline=self.name, seconds=limit)  # noqa: TRY400  # the message is sufficient
                process.kill()
                return
            if not os.read(beats, 4096):
                return
            self.beats, limit = True, self._silence

    async def stop(self, patience_seconds: float) -> None:
        """SIGTERM, then patience, then SIGKILL."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_seconds):
                await process.wait()
        except TimeoutError:
            log.warning("worker_killed", pipeline=self.name)
            process.kill()
            await process.wait()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
