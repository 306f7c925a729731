"""The client for programs without asyncio: the same methods, an event loop in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Self, TypeVar

from setsuden.link import LinkOptions
from setsuden.schemas.errors import UnavailableError
from setsuden.schemas.result import Result

from ._aio import MAX_OPEN_HANDLES, SUBMIT_TIMEOUT_SECONDS, AsyncClient
from ._messages import OCTETS, Data
from ._pending import AsyncHandle, Seconds

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
        """Run in the loop's thread and the caller's context; cancelled with the caller."""
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
        """Cancel what other threads still wait for, then end the thread."""
        with self._lock:
            self._stopped = True
            asyncio.run_coroutine_threadsafe(_cancel_rest(), self._loop)
        self._thread.join()
        self._loop.close()


async def _cancel_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    asyncio.get_running_loop().stop()


def _closed_error() -> UnavailableError:
    return UnavailableError("the client is closed", remedy="make a new one")


class Handle:
    """A submitted event: its updates as they arrive, and its one final result.

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
        """As :attr:`AsyncHandle.trace_id`."""
        return self._handle.trace_id

    @property
    def event_id(self) -> str | None:
        """The agent's id of the event; None until the agent has sent its first update."""
        return self._handle.event_id

    @property
    def idempotency_key(self) -> str:
        """The application's key, or a generated one: submitting with it gives the same result."""
        return self._handle.idempotency_key

    @property
    def done(self) -> bool:
        """True once there is a final result, a refusal, or the handle was closed."""
        return self._handle.done

    @property
    def superseded(self) -> Result | None:
        """The cloud's answer that arrived after the deadline, if one did."""
        return self._handle.superseded

    def result(self, timeout: Seconds | None = None) -> Result:
        """The final result; raises what :meth:`AsyncHandle.result` raises."""
        return self._loop.call(self._handle.result(timeout))

    def __iter__(self) -> Iterator[Result]:
        """Provisional when the case is hard, then final; each iteration starts from the first."""
        position = 0
        while (update := self._loop.call(self._handle.update(position))) is not None:
            yield update
            position += 1

    def close(self) -> None:
        """Stop following the event, which frees one of ``max_open_handles``."""
        self._loop.call(_close(self._handle))


class Client:
    """Submits events and follows each to its final result; safe to use from many threads.

    The arguments are those of :class:`AsyncClient`.

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
        """Begin to connect, without waiting for the network; ``with`` calls it."""
        if self._loop is None:
            self._loop = _Loop("setsuden-client")
            self._loop.call(self._client.start())

    def close(self) -> None:
        """Disconnect and end the thread; waiting ``result`` calls raise UnavailableError."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call(self._client.close())
            loop.stop()

    def __enter__(self) -> Self:
        """The client itself, started."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Disconnects, as ``close`` does."""
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
        """A handle on the event, once the broker has stored it: see :meth:`AsyncClient.submit`."""
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


async def _close(handle: AsyncHandle) -> None:
    handle.close()
