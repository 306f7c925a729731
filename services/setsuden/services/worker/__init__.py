"""The worker: one class that runs as a plain process and inside Serve replicas alike."""

from .teacher import Teacher
from .worker import StalledError, Worker

__all__ = ["StalledError", "Teacher", "Worker"]
