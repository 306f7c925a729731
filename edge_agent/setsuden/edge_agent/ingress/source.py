"""One device's part of the events stream, read without any right to other devices' parts."""

from __future__ import annotations

from pydantic import ValidationError

from setsuden.link import Incoming, JetStream
from setsuden.schemas import subjects
from setsuden.schemas.errors import LinkError, UnavailableError
from setsuden.schemas.stream_service import (
    INFO,
    READ,
    RELEASE,
    ReadRequest,
    ReleaseRequest,
    StreamInfo,
    purge_request,
    read_request,
    stream_info,
)
from setsuden.schemas.streams import EVENTS

NO_RESPONDERS = "503"


class EventSource:
    """Asks the stream service of the cloud side.

    Where nobody serves, JetStream is asked itself: a broker without accounts lets everybody, and
    a site that has no more than a broker and an agent needs no other process.
    """

    def __init__(self, jetstream: JetStream, device: str) -> None:
        self._jetstream, self._device = jetstream, device

    async def info(self) -> StreamInfo:
        """The stream's identity, its clock, and which pipelines hold events; raises LinkError."""
        _, answer = await self._jetstream.collect(self._subject(INFO), b"")
        if answer.status == NO_RESPONDERS:
            return await self._info_of_jetstream()
        try:
            return StreamInfo.model_validate_json(answer.data)
        except ValidationError as error:
            raise UnavailableError("the stream service's answer cannot be read") from error

    async def read(self, pipeline: str, sequence: int) -> list[Incoming]:
        """Stored events of this pipeline from the sequence on, a bounded number; raises LinkError.

        An empty list means that there are no more.
        """
        request = ReadRequest(pipeline=pipeline, seq=sequence)
        body = request.model_dump_json().encode()
        stored, end = await self._jetstream.collect(self._subject(READ), body)
        if end.status == NO_RESPONDERS:
            stored = await self._jetstream.read(EVENTS, read_request(request, self._device))
        elif end.data:
            raise UnavailableError(f"the stream service cannot read: {end.data[:200]!r}")
        subject = subjects.event(pipeline, self._device)
        return [message for message in stored if message.headers.get("Nats-Subject") == subject]

    async def release(self, pipeline: str, sequence: int) -> None:
        """Events up to this sequence may go: they are in the outbox; raises LinkError."""
        request = ReleaseRequest(pipeline=pipeline, seq=sequence)
        body = request.model_dump_json().encode()
        _, answer = await self._jetstream.collect(self._subject(RELEASE), body)
        if answer.status == NO_RESPONDERS:
            await self._jetstream.api(
                f"STREAM.PURGE.{EVENTS}", purge_request(request, self._device)
            )

    async def _info_of_jetstream(self) -> StreamInfo:
        mine: dict[str, object] = {"subjects_filter": subjects.events_of(self._device)}
        try:
            return stream_info(await self._jetstream.api(f"STREAM.INFO.{EVENTS}", mine))
        except LinkError as error:
            raise UnavailableError(
                f"nobody serves this device's events ({error.message})",
                remedy="start `setsuden cloud streams --serve` on the cloud side",
            ) from error

    def _subject(self, request: str) -> str:
        return subjects.service(self._device, request)
