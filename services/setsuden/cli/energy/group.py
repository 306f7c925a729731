"""The ``energy`` group; each command is imported when it runs."""

from __future__ import annotations

import click

from setsuden.cli.lazy import LazyGroup, Place

COMMANDS = {
    "doctor": Place("setsuden.cli.energy.doctor:doctor", "Show every energy source, and why."),
    "calibrate": Place("setsuden.cli.energy.calibrate:calibrate", "Fit this machine's power."),
    "watch": Place("setsuden.cli.energy.watch:watch", "Show or serve windows as they close."),
    "intensity": Place("setsuden.cli.energy.intensity:intensity", "Show a grid's grams per kWh."),
    "verify": Place("setsuden.cli.energy.verify:verify", "Measure the method's own errors."),
    "report": Place("setsuden.cli.run_report:report", "The same as `setsuden report`."),
}


@click.group("energy", cls=LazyGroup, table=COMMANDS)
def energy() -> None:
    """Joules of this machine: their source, boundary, method and interval."""
