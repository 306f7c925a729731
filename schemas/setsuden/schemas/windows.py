"""Rows of energy: what one meter saw in one window, from which every figure of a report follows.

A file of rows begins with one ``meter`` row; ``window`` rows follow. An auditor needs nothing else
to attribute each window again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import Token, WireModel
from .energy import Boundary, Method, Quality, Source

ROWS_VERSION = 1
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A count, or nanoseconds since 1970: readers keep them in 64 bits."""


class Component(StrEnum):
    """Whose joules."""

    EDGE = "edge"
    BROKER = "broker"
    CLOUD = "cloud"


class Access(StrEnum):
    """How a machine reaches the broker."""

    UNDECLARED = "undeclared"
    LOOPBACK = "loopback"
    LAN = "lan"
    FIXED = "fixed"
    MOBILE = "mobile"


class DomainRow(WireModel):
    """One domain that the meter reads."""

    id: str
    name: str
    hw_type: str
    """``hw.type`` of OpenTelemetry."""
    kind: str
    source: Source
    boundary: Boundary
    factor: float
    """95 % factor of the reading as energy of its boundary."""
    parent: str | None = None
    primary: bool
    """True when it is part of the sum that is attributed."""


class MeterRow(WireModel):
    """One life of one process's meter: everything that is the same in all its windows."""

    row: Literal["meter"] = "meter"
    version: int = ROWS_VERSION
    meter: str
    """This life's own id."""
    component: Component
    name: str
    """Device id, worker slot or server name."""
    host_id: str
    site: Token
    access: Access
    cores: int
    reserved_share: float = Field(ge=0, le=1)
    """The part of the machine's idle power this process answers for."""
    reserved_why: str
    """Why it is that part."""
    sensor: str
    """The candidate that was chosen."""
    origin: str
    """What its figures stand on, with the citation."""
    domains: tuple[DomainRow, ...] = Field(strict=False)
    source: Source
    """Worst of the primary domains."""
    boundary: Boundary | None
    factor: float | None
    """95 % factor of a window's joules; None with source ``none``."""
    idle_factor: float | None
    """95 % factor of ``idle_watts``."""
    idle_origin: str
    """Calibrated, declared, from the table, or the least power seen so far."""
    exponent: float = 1.0
    """Bend of the machine's dynamic power over utilisation, from a calibration; 1 is straight."""
    window_seconds: float
    software: str
    config_sha256: str
    started_ns: Whole
    """UTC."""


class WorkRow(WireModel):
    """What one model did in one window."""

    pipeline: str
    model: str
    """bundle/model."""
    digest: str
    method: Method
    runs: float
    """``session.run`` calls; one that lies in two windows counts in part in each."""
    items: float
    """Observations in them."""
    cpu_seconds: float
    """Exact CPU time of the runs that fell into this window."""
    idle_seconds: float
    """Time its runs were open, shared equally with other open runs at every moment."""


class Counts(WireModel):
    """What happened to events in one window."""

    local: Whole = 0
    """Final answers of the student alone, on the device."""
    cloud: Whole = 0
    """Final answers of the teacher, on the device."""
    changed: Whole = 0
    """Final answers of the teacher that differ from the student's, on the device."""
    expired: Whole = 0
    """Deadline passed: the student's answer became final, on the device."""
    dead: Whole = 0
    """Final without an answer, on the device."""
    escalated: Whole = 0
    """Events handed to the cloud, on the device."""
    answered: Whole = 0
    """Answers of the teacher, in the cloud; repetitions included."""
    messages: Whole = 0
    """Messages through the broker."""
    bytes_up: Whole = 0
    """On the wire from this machine to the broker, TCP payload."""
    bytes_down: Whole = 0
    """On the wire from the broker to this machine, TCP payload."""
    packets: Whole = 0
    """TCP segments both ways: each carries 40 bytes of headers more."""


class WindowRow(WireModel):
    """One closed window. The five buckets sum to ``joules``; all are None when it is unknown."""

    row: Literal["window"] = "window"
    meter: str
    start_ns: Whole
    """UTC."""
    seconds: float
    """On the monotonic clock."""
    joules: float | None
    """Of the primary domains together."""
    idle_watts: float | None
    """Idle baseline in use."""
    quality: Quality
    busy_cpu_seconds: float
    """Of the whole machine: user, nice, system, irq, softirq."""
    steal_cpu_seconds: float
    """Taken by the hypervisor for others; in no figure."""
    process_cpu_seconds: float
    """Of the metered process, dead threads included."""
    work: tuple[WorkRow, ...] = Field(default=(), strict=False)
    request_dynamic: float | None
    request_idle: float | None
    overhead: float | None
    idle_unused: float | None
    other: float | None
    counts: Counts = Counts()
