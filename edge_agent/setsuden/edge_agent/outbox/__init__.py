"""The device's durable queue: rows with checksums, files that are damaged or only in trouble."""

from .files import OutboxTroubleError, OutboxUnwritableError, prepare_folder
from .rows import RowDamagedError
from .store import Damaged, Known, Outbox, OutboxBrokenError

__all__ = [
    "Damaged",
    "Known",
    "Outbox",
    "OutboxBrokenError",
    "OutboxTroubleError",
    "OutboxUnwritableError",
    "RowDamagedError",
    "prepare_folder",
]
