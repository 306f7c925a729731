"""A simulated machine whose true joules per request are known."""

from setsuden.pipelines.energy.plant.machine import Machine, Neighbours, Pattern, Requests
from setsuden.pipelines.energy.plant.plant import (
    COUNTER,
    POWER,
    Plant,
    PlantClock,
    PlantProcess,
    Scene,
)
from setsuden.pipelines.energy.plant.schedule import Request
from setsuden.pipelines.energy.plant.tree import CounterFile, PowerFile

__all__ = [
    "COUNTER",
    "POWER",
    "CounterFile",
    "Machine",
    "Neighbours",
    "Pattern",
    "Plant",
    "PlantClock",
    "PlantProcess",
    "PowerFile",
    "Request",
    "Requests",
    "Scene",
]
