"""Fixtures: every test gets real servers of its own."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.jaeger import jaeger  # noqa: F401  # a fixture

from setsuden.link import JetStream, Link
from setsuden.process import quiet  # noqa: F401  # tests import onnxruntime too
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.testing.broker import LocalBroker

# A shell's background job inherits an ignored SIGINT, and so would every process of ours: Ctrl-C
# is tested, so it must be heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    """A real nats-server with strict durability."""
    with LocalBroker(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def link(broker: LocalBroker) -> AsyncIterator[Link]:
    """A link that is up."""
    up = Link(broker.options, "test")
    up.start()
    await up.wait_up(10)
    yield up
    await up.close()


@pytest.fixture
async def jetstream(link: Link) -> JetStream:
    """JetStream with all our streams applied."""
    ready = JetStream(link)
    await ready.start()
    for stream in all_streams(StreamBounds()):
        await ready.apply_stream(stream)
    return ready
