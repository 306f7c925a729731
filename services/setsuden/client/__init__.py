"""What an application imports: submit an event, get its provisional and its final answer.

::

    from setsuden.client import Client

    with Client("nats://127.0.0.1:4222", device="meter-7") as client:
        handle = client.submit("digits", open("reading.raw", "rb").read(), deadline=5.0)
        for update in handle:  # provisional when the case is hard, then final
            print(update.status, update.answer)
        print(handle.result().timing.total_ms, "ms")

:class:`AsyncClient` has the same methods for asyncio. Needs neither numpy nor onnxruntime.
"""

from setsuden.link import LinkOptions
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.errors import (
    ConfigError,
    ForbiddenError,
    LinkError,
    RejectedError,
    ResultTimeoutError,
    SetsudenError,
    UnavailableError,
)
from setsuden.schemas.result import Answer, Energy, Problem, Result, Status, Tier, Timing

from .aio import AsyncClient
from .handle import AsyncHandle
from .observation import ArrayLike, Data
from .sync import Client, Handle

__all__ = [
    "Answer",
    "ArrayLike",
    "AsyncClient",
    "AsyncHandle",
    "Client",
    "ConfigError",
    "Data",
    "Energy",
    "EnergyReading",
    "ForbiddenError",
    "Handle",
    "LinkError",
    "LinkOptions",
    "Problem",
    "RejectedError",
    "Result",
    "ResultTimeoutError",
    "SetsudenError",
    "Status",
    "Tier",
    "Timing",
    "UnavailableError",
]
