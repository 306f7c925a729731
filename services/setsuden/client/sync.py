"""The client for everybody else: the same methods, an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Self, TypeVar

from setsuden.link import LinkOptions
from setsuden.schemas.errors import UnavailableError
from setsuden.schemas.result import Result

from .aio import AsyncClient
from .handle import AsyncHandle, Seconds
from .observation import OCTETS, Data
from .options import MAX_OPEN_HANDLES, SUBMIT_TIMEOUT_SECONDS

T = TypeVar("T")


class _Loop:
    """A running event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end in the loop's thread; given up there when the caller is interrupted."""
        future = self._begin(work)
        try:
            return future.result()
        except CancelledError as error:
            raise _closed_error() from error
        except BaseException:
            future.cancel()
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._stopped:
                work.close()
                raise _closed_error()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End the thread and, before that, whatever other threads still wait for."""
        with self._lock:
            self._stopped = True
            asyncio.run_coroutine_threadsafe(_end_rest(), self._loop)
        self._thread.join()
        self._loop.close()


async def _end_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    asyncio.get_running_loop().stop()


def _closed_error() -> UnavailableError:
    return UnavailableError("the client is closed", remedy="make a new one")


class Handle:
    """A submitted event: its updates as they come, and its one final result.

    ::

        handle = client.submit("digits", pixels)
        for update in handle:
            print(update.status, update.answer)
        result = handle.result(timeout=5)
    """

    def __init__(self, handle: AsyncHandle, loop: _Loop) -> None:
        self._handle = handle
        self._loop = loop

    @property
    def trace_id(self) -> str:
        """The accepted event's trace; until it is known, the one this submission asked for."""
        return self._handle.trace_id

    @property
    def event_id(self) -> str | None:
        """The agent's name of the event, once it said that it has it."""
        return self._handle.event_id

    @property
    def idempotency_key(self) -> str:
        """The application's key, else the one made for it: submit it again, get the same result."""
        return self._handle.idempotency_key

    @property
    def done(self) -> bool:
        """True once there is a final result, a refusal, or the handle was closed."""
        return self._handle.done

    @property
    def superseded(self) -> Result | None:
        """The cloud's answer that came after the deadline, if one did."""
        return self._handle.superseded

    def result(self, timeout: Seconds | None = None) -> Result:
        """The final result; raises as :meth:`AsyncHandle.result` does."""
        return self._loop.call(self._handle.result(timeout))

    def __iter__(self) -> Iterator[Result]:
        """Provisional when the case is hard, then final; each iteration begins at the first."""
        position = 0
        while (update := self._loop.call(self._handle.update(position))) is not None:
            yield update
            position += 1

    def close(self) -> None:
        """Follow no more, which frees a place among the open handles. The event lives on."""
        self._loop.call(_closed(self._handle))


class Client:
    """Submits events and follows each to its final result; safe to use from many threads.

    ::

        with Client("nats://127.0.0.1:4222", device="meter-7") as client:
            result = client.submit("digits", pixels, deadline=5.0).result(timeout=10)
            print(result.answer.label, result.tier, result.trace_id)
    """

    def __init__(
        self,
        urls: str | Sequence[str] | None = None,
        *,
        device: str | None = None,
        options: LinkOptions | None = None,
        name: str = "client",
        submit_timeout_seconds: float = SUBMIT_TIMEOUT_SECONDS,
        max_open_handles: int = MAX_OPEN_HANDLES,
    ) -> None:
        self._client = AsyncClient(
            urls,
            device=device,
            options=options,
            name=name,
            submit_timeout_seconds=submit_timeout_seconds,
            max_open_handles=max_open_handles,
        )
        self._loop: _Loop | None = None

    def start(self) -> None:
        """Begin to connect; never waits for the network. ``with`` does it."""
        if self._loop is None:
            self._loop = _Loop("setsuden-client")
            self._loop.call(self._client.start())

    def close(self) -> None:
        """Drop the link and end the thread. Whoever still waits is told so; the events live on."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call(self._client.close())
            loop.stop()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def submit(
        self,
        pipeline: str,
        data: Data,
        *,
        device: str | None = None,
        content_type: str = OCTETS,
        deadline: Seconds | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        traceparent: str | None = None,
    ) -> Handle:
        """A handle on the event, once the broker stored it; as :meth:`AsyncClient.submit`."""
        loop = self._loop
        if loop is None:
            raise UnavailableError("the client is not started", remedy="use it in a with block")
        handle = loop.call(
            self._client.submit(
                pipeline,
                data,
                device=device,
                content_type=content_type,
                deadline=deadline,
                idempotency_key=idempotency_key,
                priority=priority,
                traceparent=traceparent,
            )
        )
        return Handle(handle, loop)


async def _closed(handle: AsyncHandle) -> None:
    handle.close()
