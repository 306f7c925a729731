"""Why a run cannot be reported."""

from __future__ import annotations

from setsuden.schemas.errors import SetsudenError


class RowsError(SetsudenError):
    """Rows that are missing, damaged or in contradiction; names file and line."""

    code = "rows_invalid"
