"""A simulated machine whose true joules per request are known."""

from setsuden.energy.simulator.machine import Neighbours, Pattern, PowerModel, Requests
from setsuden.energy.simulator.schedule import SimulatedRequest
from setsuden.energy.simulator.simulation import (
    COUNTER,
    POWER,
    Scene,
    SimulatedClock,
    SimulatedMachine,
    SimulatedProcess,
)
from setsuden.energy.simulator.tree import CounterFile, PowerFile

__all__ = [
    "COUNTER",
    "POWER",
    "CounterFile",
    "Neighbours",
    "Pattern",
    "PowerFile",
    "PowerModel",
    "Requests",
    "Scene",
    "SimulatedClock",
    "SimulatedMachine",
    "SimulatedProcess",
    "SimulatedRequest",
]
