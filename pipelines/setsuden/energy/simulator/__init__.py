"""A simulated machine whose true joules per request are known."""

from setsuden.energy.simulator.machine import Machine, Neighbours, Pattern, Requests
from setsuden.energy.simulator.schedule import Request
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
    "Machine",
    "Neighbours",
    "Pattern",
    "PowerFile",
    "Request",
    "Requests",
    "Scene",
    "SimulatedClock",
    "SimulatedMachine",
    "SimulatedProcess",
]
