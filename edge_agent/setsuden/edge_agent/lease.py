"""One agent for each device name: a record in the broker says which one it is.

The holder renews its record every ten seconds by compare-and-set. Another agent of the same name
is refused as long as it sees the record change; one that stood still for thirty seconds belongs
to an agent that is gone. No clock is compared with another one.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from setsuden.link import JetStream, Link, LinkState
from setsuden.link.jetstream import SEQUENCE
from setsuden.schemas import subjects
from setsuden.schemas.base import WireModel
from setsuden.schemas.errors import AlreadyStoredError, ForbiddenError, LinkError
from setsuden.schemas.escalation import EXPECTED_SUBJECT_SEQUENCE
from setsuden.schemas.log import get_logger
from setsuden.schemas.streams import LEASES

from .outbox import Outbox

log = get_logger(__name__)
RENEW_SECONDS = 10.0
DEAD_SECONDS = 30.0
"""A record that did not change for so long has no holder any more."""
_FACTS = (
    "/etc/machine-id",
    "/sys/class/dmi/id/product_uuid",
    "/proc/device-tree/serial-number",
)


class DeviceTakenError(ForbiddenError):
    """Another agent is this device now."""

    code = "device_name_taken"


class LeaseRecord(WireModel):
    """Who a device is. Not believed for more than that somebody wrote it."""

    life: str = Field(max_length=64)
    """One start of one agent."""
    owner: str = Field(max_length=64)
    """One place for a state folder, on one machine."""
    folder: str = Field(max_length=64)
    host: str = Field(default="", max_length=64)
    since: str = Field(default="", max_length=64)
    sequence: int = Field(default=0, ge=0)
    """The outbox's next sequence when the record was renewed."""


class LeaseStep(Enum):
    """What follows from the record that is stored."""

    TAKE = "take"
    """It is ours, or nobody's."""
    TAKE_OVER = "take over"
    """Its holder is gone."""
    REFUSE = "refuse"


class SeenLease(NamedTuple):
    """Somebody else's record, and since when it has not changed, on the monotonic clock."""

    sequence: int
    since: float


def decide(  # noqa: PLR0917  # a table of facts
    mine: LeaseRecord,
    held: bool,
    record: LeaseRecord | None,
    sequence: int,
    seen: SeenLease | None,
    now: float,
) -> tuple[LeaseStep, SeenLease | None]:
    """The step, and what to remember of the record for the next look at it.

    ``held``: this start of the agent has held the name. Until then a record of the same folder is
    the one that its last start left behind; afterwards it is a copy that runs.
    """
    ours = record is not None and (
        record.life == mine.life or (record.owner == mine.owner and not held)
    )
    if record is None or ours:
        return LeaseStep.TAKE, None
    if seen is None or seen.sequence != sequence:
        return LeaseStep.REFUSE, SeenLease(sequence, now)
    return (LeaseStep.TAKE_OVER if now - seen.since >= DEAD_SECONDS else LeaseStep.REFUSE), seen


class Lease:
    """An agent's claim to its device's name."""

    def __init__(self, device: str, outbox: Outbox, link: Link, jetstream: JetStream) -> None:
        self._subject = subjects.lease(device)
        self._device, self._outbox = device, outbox
        self._link, self._jetstream = link, jetstream
        self._seen: SeenLease | None = None
        self._sequence = 0
        folder = outbox.recall("folder")
        if folder is None:
            folder = secrets.token_hex(16)
            outbox.remember("folder", folder)
        self._record = LeaseRecord(
            life=secrets.token_hex(16),
            owner=_owner(outbox.folder),
            folder=folder,
            host=socket.gethostname()[:64],
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.on_rolled_back: Callable[[], None] = lambda: None
        """Called when the state folder is older than what this device has done since."""

    async def acquire(self) -> None:
        """Claim the name over a fresh connection; raises DeviceTakenError or another LinkError."""
        stored = await self._jetstream.last(LEASES, self._subject)
        record = None if stored is None else _read(stored.data)
        sequence = 0 if stored is None else int(stored.headers[SEQUENCE])
        step, self._seen = decide(
            self._record, self._sequence > 0, record, sequence, self._seen, time.monotonic()
        )
        if step is LeaseStep.REFUSE and record is not None:
            raise DeviceTakenError(
                f"device name {self._device!r} is in use by another agent "
                f"on {record.host or 'an unnamed host'} since {record.since or 'an unknown time'}",
                remedy="stop one of them, or give this one a device name of its own; an agent "
                f"that is gone frees its name after {DEAD_SECONDS:.0f} s",
            )
        if step is LeaseStep.TAKE_OVER:
            log.warning("device_name_taken_over", device=self._device)
        if record is not None and record.life != self._record.life:
            self._compare(record)
        await self._write(sequence)

    def _compare(self, record: LeaseRecord) -> None:
        if record.folder == self._record.folder and record.sequence > self._outbox.next_sequence:
            log.error(
                "state_folder_is_older",
                detail="it was restored or copied: this device has accepted events since",
                sequence=self._outbox.next_sequence,
                sequence_seen=record.sequence,
            )
            self.on_rolled_back()
        elif record.folder != self._record.folder:
            log.warning("state_folder_is_new", device=self._device)

    async def run(self, next_sequence: Callable[[], int]) -> None:
        """Renew while the link is up, until cancelled; a lost name drops the link."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if self._link.state is not LinkState.UP:
                continue
            self._record = self._record.model_copy(update={"sequence": next_sequence()})
            try:
                await self._write(self._sequence)
            except AlreadyStoredError:
                await self._look_again()
            except LinkError as error:
                log.debug("lease_not_renewed", detail=str(error))

    async def _look_again(self) -> None:
        """The record is not the one we wrote last: it may be ours, its answer lost."""
        try:
            stored = await self._jetstream.last(LEASES, self._subject)
        except LinkError:
            return
        record = None if stored is None else _read(stored.data)
        if stored is not None and record is not None and record.life == self._record.life:
            self._sequence = int(stored.headers[SEQUENCE])
        else:
            log.error("device_name_lost", device=self._device)
            self._link.drop()

    async def _write(self, expected: int) -> None:
        headers = {EXPECTED_SUBJECT_SEQUENCE: str(expected)}
        body = self._record.model_dump_json().encode()
        stored = await self._link.store(self._subject, body, headers)
        self._sequence = stored.sequence


def _read(body: bytes) -> LeaseRecord | None:
    """The record; None for one that cannot be read, which holds nothing."""
    if len(body) > 4096:
        return None
    try:
        return LeaseRecord.model_validate_json(body)
    except ValidationError:
        return None


def _owner(folder: Path) -> str:
    """Names this place on this machine: a copy elsewhere, or beside it, has another name.

    What was there before, lost or replaced, had the same one: no two agents can hold its lock.
    """
    facts = [str(folder.resolve()), socket.gethostname(), *map(_fact, _FACTS)]
    cards = sorted(Path("/sys/class/net").glob("*/device/../address"))
    facts += [_fact(str(card)) for card in cards]
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=16).hexdigest()


def _fact(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
