"""What an application imports: submit an event, get its provisional and its final answer.

::

    from setsuden.client import Client

    with Client("nats://127.0.0.1:4222", device="meter-7") as client:
        handle = client.submit("digits", open("reading.raw", "rb").read(), deadline=5.0)
        for update in handle:  # provisional when the case is hard, then final
            print(update.status, update.answer)
        print(handle.result().timing.total_ms, "ms")

:class:`AsyncClient` has the same methods for asyncio. Every error is a :class:`SetsudenError` and
can be imported from here. An application that uses OpenTelemetry finds a span ``setsuden.submit``
for each submission in its own trace, and the event's spans below it. Needs neither numpy nor
onnxruntime. docs/python.md describes the API by task; :mod:`setsuden.testing` has a client that
needs no broker.
"""

from setsuden.link import LinkOptions
from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.energy import Boundary, EnergyReading, Method, Quality, Source
from setsuden.schemas.errors import (
    AlreadyStoredError,
    BundleError,
    ConfigError,
    ForbiddenError,
    InvalidEventError,
    InvalidTensorError,
    LinkError,
    MessageTooLargeError,
    MissingExtraError,
    NotDurableError,
    OutboxFullError,
    OutboxLockedError,
    PayloadTooLargeError,
    RejectedError,
    RequestRefusedError,
    ResultTimeoutError,
    SetsudenError,
    StreamFullError,
    TraceDataError,
    UnavailableError,
    UnknownPipelineError,
    UnsupportedContentTypeError,
)
from setsuden.schemas.result import Answer, Energy, ModelRef, Problem, Result, Status, Tier, Timing

from ._aio import AsyncClient
from ._messages import ArrayLike, Data
from ._pending import AsyncHandle, Seconds
from ._sync import Client, Handle

__all__ = [
    "Action",
    "AlreadyStoredError",
    "Answer",
    "ArrayLike",
    "AsyncClient",
    "AsyncHandle",
    "Boundary",
    "BundleError",
    "Client",
    "ConfigError",
    "Data",
    "Decision",
    "Energy",
    "EnergyReading",
    "ForbiddenError",
    "Handle",
    "InvalidEventError",
    "InvalidTensorError",
    "LinkError",
    "LinkOptions",
    "MessageTooLargeError",
    "Method",
    "MissingExtraError",
    "ModelRef",
    "NotDurableError",
    "OutboxFullError",
    "OutboxLockedError",
    "PayloadTooLargeError",
    "Problem",
    "Quality",
    "Reason",
    "RejectedError",
    "RequestRefusedError",
    "Result",
    "ResultTimeoutError",
    "Seconds",
    "SetsudenError",
    "Source",
    "Status",
    "StreamFullError",
    "Tier",
    "Timing",
    "TraceDataError",
    "UnavailableError",
    "UnknownPipelineError",
    "UnsupportedContentTypeError",
]
