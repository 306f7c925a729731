"""Joules from sensors, models and CPU-seconds, always labelled with how they were found."""

from setsuden.energy.metering.ledger import MeteredRun, WorkKey
from setsuden.energy.metering.meter import Meter
from setsuden.energy.options import EnergyOptions

__all__ = ["EnergyOptions", "Meter", "MeteredRun", "WorkKey"]
