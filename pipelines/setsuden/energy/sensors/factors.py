"""Default 95 % factors of energy sources: how far a figure may be from the energy in its boundary.

The truth lies within figure / factor and figure x factor in 95 % of cases. A row of a board file
overrides its own. Few of them are measured anywhere: where one is a judgement it says so.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Factor(NamedTuple):
    """One factor and its evidence."""

    value: float
    citation: str


class ErrorClass(StrEnum):
    """Kinds of source that share a factor."""

    METER = "meter"
    RAIL = "rail"
    HOST = "host"
    PACKAGE = "package"
    SOCKET = "socket"
    COUNTER = "counter"
    FIRMWARE = "firmware"
    BATTERY = "battery"


FACTORS = {
    ErrorClass.METER: Factor(
        1.05, "judgement, for a meter outside the machine that declares nothing"
    ),
    ErrorClass.RAIL: Factor(
        1.1, "judgement: 1 % shunt, 1 % chip, and regulators between the rail and its load"
    ),
    ErrorClass.HOST: Factor(1.1, "judgement, where firmware states no credible powerN_accuracy"),
    ErrorClass.PACKAGE: Factor(
        1.1,
        "judgement, as energy of the package alone: a wall plug saw 1.6 to 3.4 times as much "
        "(CodeCarbon's Threadripper log, 20 points)",
    ),
    ErrorClass.SOCKET: Factor(1.1, "judgement, as RAPL: firmware adds up its regulators"),
    ErrorClass.COUNTER: Factor(1.1, "judgement, for a counter in the device itself"),
    ErrorClass.FIRMWARE: Factor(
        1.2, "judgement: SCMI leaves what and how it averages to the platform"
    ),
    ErrorClass.BATTERY: Factor(1.2, "judgement: a fuel gauge follows its load by seconds"),
}
SURE_PERCENT = 100.0
_ERROR_BELOW = 50.0


def accuracy_factor(percent: float) -> float | None:
    """The 95 % factor of an accuracy that a device's firmware states; None for no credible one.

    ACPI 6.5, 10.4.1, means 95 by "95 % accurate". The hwmon ABI says "accuracy in percent" alone,
    so a figure below 50 is taken for the error itself. 100 is a field that nobody filled in.
    """
    if not 0 < percent < SURE_PERCENT:
        return None
    error = percent if percent < _ERROR_BELOW else SURE_PERCENT - percent
    return 1 / (1 - error / 100)
