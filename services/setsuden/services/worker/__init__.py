"""The worker: one class that runs as a plain process and inside Serve replicas alike."""

from .worker import StalledError, Worker

__all__ = ["StalledError", "Worker"]
