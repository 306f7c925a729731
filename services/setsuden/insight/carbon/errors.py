"""The one error of this folder that is not about a person's configuration."""

from __future__ import annotations

from setsuden.schemas.errors import SetsudenError


class IntensityError(SetsudenError):
    """No intensity: a service does not answer, or not as agreed, or a series is unusable."""

    code = "intensity_unavailable"
