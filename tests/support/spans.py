"""Spans that processes under test made, wherever they got to."""

from __future__ import annotations

from pathlib import Path

from setsuden.insight.traces import read
from setsuden.insight.traces.found import FoundSpan
from setsuden.link import Incoming, JetStream
from setsuden.schemas.streams import SPANS
from setsuden.schemas.subjects import HOPS
from setsuden.services.bridge import hops
from setsuden.telemetry import protobuf

_BATCH = 256


def spooled(folder: Path) -> list[FoundSpan]:
    """Spans sealed below this folder and not yet sent."""
    return read.load([str(path) for path in sorted(folder.rglob("*.pb.gz"))])


async def shipped(jetstream: JetStream) -> list[FoundSpan]:
    """Spans in the OTEL stream, and those of the hops it tells of."""
    found: list[FoundSpan] = []
    sequence = 1
    while True:
        request: dict[str, object] = {"next_by_subj": "otel.>", "seq": sequence, "batch": _BATCH}
        batch = await jetstream.read(SPANS, request)
        if not batch:
            return found
        for message in batch:
            found += _spans(message)
        sequence = int(batch[-1].headers["Nats-Sequence"]) + 1


def _spans(message: Incoming) -> list[FoundSpan]:
    subject = message.headers["Nats-Subject"]
    if subject.startswith("otel.metrics."):
        return []
    if subject.startswith(HOPS):
        group = hops.spans_of(message.data, subject)
        groups = [] if group is None else [group]
    else:
        groups = protobuf.decode(protobuf.decompress(message.data))
    return [FoundSpan(group.resource, span) for group in groups for span in group.spans]
