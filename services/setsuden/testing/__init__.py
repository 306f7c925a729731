"""For the tests of an application: a client without a broker, and real servers on free ports.

::

    from setsuden.client import Answer
    from setsuden.testing import Event, FakeClient

    def answer(event: Event) -> Answer:
        return Answer(label="worn", index=1, confidence=0.97)

    with FakeClient(answer, device="pump-1") as client:  # is a setsuden.client.Client
        result = client.submit("vibration", bytes(1536)).result(timeout=1)
        assert result.answer is not None
        assert result.answer.label == "worn"
        assert client.events[0].device == "pump-1"

:class:`FakeClient` and :class:`FakeAsyncClient` check what is submitted as the real ones do, and
answer from a function. :class:`LocalSite` is a broker, an agent and a worker as real processes;
:class:`LocalBroker` and :class:`LocalJaeger` are one server each. docs/testing.md shows them all.
"""

from setsuden.schemas.event import Event

from .broker import LocalBroker, find_server
from .fake import AnswerEvent, Answers, FakeAsyncClient, FakeClient
from .jaeger import LocalJaeger, find_jaeger
from .server import LocalServer, free_port, free_ports
from .site import LocalSite

__all__ = [
    "AnswerEvent",
    "Answers",
    "Event",
    "FakeAsyncClient",
    "FakeClient",
    "LocalBroker",
    "LocalJaeger",
    "LocalServer",
    "LocalSite",
    "find_jaeger",
    "find_server",
    "free_port",
    "free_ports",
]
