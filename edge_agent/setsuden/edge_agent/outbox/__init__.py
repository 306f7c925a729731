"""The device's durable queue: rows with checksums, files that are damaged or only in trouble."""

from .files import OutboxTroubleError, OutboxUnwritableError, prepare_folder
from .rows import RowDamagedError
from .store import Cursor, Damaged, Known, Outbox, OutboxBrokenError, StreamPlace

__all__ = [
    "Cursor",
    "Damaged",
    "Known",
    "Outbox",
    "OutboxBrokenError",
    "OutboxTroubleError",
    "OutboxUnwritableError",
    "RowDamagedError",
    "StreamPlace",
    "prepare_folder",
]
