"""The ``[energy]`` table: what the person knows of this machine's electricity."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from setsuden.schemas.base import Model, Token
from setsuden.schemas.windows import Access


class PlugOptions(Model):
    """The ``[energy.plug]`` table: a meter outside the machine, at the wall or the supply rail."""

    kind: Literal["http", "mqtt", "file"]
    """How it is asked. ``file`` is for anything that can write a number into a file."""
    url: str | None = Field(default=None, pattern="^(https?|mqtts?)://")
    """``http://…`` that answers with JSON, or ``mqtt://host:1883/topic``."""
    path: str | None = None
    """The file, for ``kind = "file"``: one number."""
    field: str = ""
    """Dotted path of the number in the JSON, e.g. ``StatusSNS.ENERGY.Power``."""
    quantity: Literal["watts", "joules", "watt_hours", "kilowatt_hours"] = "watts"
    """What the number is. A total that only grows is worth more than watts."""
    factor: float = Field(default=1.05, ge=1, le=10)
    """Its declared accuracy as a 95 % factor."""
    boundary: Literal["wall_ac", "board_dc"] = "wall_ac"
    """What it measures."""
    seconds: float = Field(default=1.0, ge=0.2, le=60)
    """How often it is asked."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.kind == "file" and self.path is None:
            raise ValueError("path is required for kind = 'file'")
        if self.kind != "file" and self.url is None:
            raise ValueError(f"url is required for kind = '{self.kind}'")
        return self


class RedfishOptions(Model):
    """The ``[energy.redfish]`` table: the server's own management controller."""

    url: str = Field(pattern="^https?://")
    """Of the chassis' Power resource, e.g. ``https://bmc/redfish/v1/Chassis/1/Power``."""
    user: str | None = None
    """Its user."""
    password_file: str | None = None
    """File that holds the password; relative to this file."""
    insecure: bool = False
    """Accept any certificate: most controllers have none that anybody signed."""
    factor: float = Field(default=1.05, ge=1, le=10)
    """Its declared accuracy as a 95 % factor."""
    seconds: float = Field(default=5.0, ge=1, le=300)
    """How often it is asked."""


class EnergyOptions(Model):
    """The ``[energy]`` table."""

    sensor: str = "auto"
    """Which source feeds the figures: ``auto`` for the best one found, or a name that
    ``setsuden energy doctor`` lists; ``none`` for no joules at all."""
    watts_per_core: float | None = Field(default=None, gt=0, le=1000)
    """Wall power of one busy core; replaces the table, and is labelled ``declared``."""
    idle_watts_per_core: float | None = Field(default=None, ge=0, le=1000)
    """Wall power of one idle core, for a declared figure; without it 0.3 of the busy one."""
    factor: float = Field(default=2.0, ge=1, le=100)
    """Spread of a declared figure: low is divided by it, high multiplied."""
    boards: tuple[str, ...] = Field(default=(), strict=False, max_length=64)
    """Files with rows for boards that we do not know; relative to this file."""
    calibration: str = "calibration.json"
    """What ``setsuden energy calibrate`` wrote; relative paths are relative to the state folder."""
    relay: str | None = None
    """UNIX socket of a meter that may read what we may not (``setsuden energy watch --serve``)."""
    window_seconds: float = Field(default=1.0, ge=0.1, le=60)
    """Interval over which joules are read and attributed while something runs."""
    idle_window_seconds: float = Field(default=10.0, ge=0.1, le=60)
    """The same while nothing does: an idle process wakes rarely. Never shorter than
    ``window_seconds``, and below the quickest counter's wrap (65 s at three times its power)."""
    max_core_share: float = Field(default=0.001, gt=0, le=0.1)
    """What reading may cost; a dearer sensor is read less often."""
    reserved_share: float | None = Field(default=None, gt=0, le=1)
    """The machine's part that is reserved for this process, whose idle power it answers for;
    without it what its cgroup and affinity allow."""
    site: Token = "undeclared"
    """Where the machine stands: a site profile's name, e.g. ``fr-par-2``."""
    access: Access = Field(default=Access.UNDECLARED, strict=False)
    """How it reaches the broker; decides the network's joules."""
    rows: str = "energy"
    """Folder of window rows, from which reports are made; relative to the state folder."""
    rows_max_bytes: int = Field(default=256 << 20, ge=1 << 16)
    """Past it the oldest rows are dropped and counted."""
    plug: PlugOptions | None = None
    """A meter outside the machine."""
    redfish: RedfishOptions | None = None
    """The management controller."""
