"""Joules from CPU-seconds, always labelled with how they were found."""

from .table import EnergyModel, EnergyOptions, choose

__all__ = ["EnergyModel", "EnergyOptions", "choose"]
