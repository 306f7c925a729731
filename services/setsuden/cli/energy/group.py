"""The ``energy`` group; each command is imported when it runs."""

from __future__ import annotations

import click

from setsuden.cli.lazy import CommandPlace, LazyGroup

COMMANDS = {
    "doctor": CommandPlace(
        "setsuden.cli.energy.doctor:doctor", "Show every energy source, and why."
    ),
    "calibrate": CommandPlace(
        "setsuden.cli.energy.calibrate:calibrate", "Fit this machine's power."
    ),
    "watch": CommandPlace(
        "setsuden.cli.energy.watch:watch", "Show or serve windows as they close."
    ),
    "intensity": CommandPlace(
        "setsuden.cli.energy.intensity:intensity", "Show a grid's grams per kWh."
    ),
    "verify": CommandPlace("setsuden.cli.energy.verify:verify", "Measure the method's own errors."),
    "report": CommandPlace("setsuden.cli.run_report:report", "The same as `setsuden report`."),
}


@click.group("energy", cls=LazyGroup, table=COMMANDS)
def energy() -> None:
    """Joules of this machine: their source, boundary, method and interval."""
