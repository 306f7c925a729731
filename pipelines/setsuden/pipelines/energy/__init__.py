"""Joules from sensors, models and CPU-seconds, always labelled with how they were found."""

from setsuden.pipelines.energy.metering.ledger import MeteredRun, WorkKey
from setsuden.pipelines.energy.metering.meter import Meter
from setsuden.pipelines.energy.options import EnergyOptions

__all__ = ["EnergyOptions", "Meter", "MeteredRun", "WorkKey"]
