"""A refused event as it is told to whoever sent it: on HTTP and on the reply subject alike."""

from __future__ import annotations

from pydantic import Field

from . import errors
from .base import WireModel

_CLASSES: dict[str, type[errors.SetsudenError]] = {
    kind.code: kind
    for kind in (
        errors.RejectedError,
        errors.InvalidEventError,
        errors.InvalidTensorError,
        errors.PayloadTooLargeError,
        errors.UnknownPipelineError,
        errors.UnsupportedContentTypeError,
        errors.RequestRefusedError,
        errors.UnavailableError,
    )
}


class RefusedError(WireModel):
    """Why, which part, and what to do."""

    code: str
    message: str = Field(max_length=2048)
    field: str = ""
    remedy: str = Field(default="", max_length=1024)
    used_bytes: int | None = None
    """Set when the outbox is full."""
    quota_bytes: int | None = None


class Refusal(WireModel):
    """``{"error": {…}}``: nothing changed; the event was not accepted."""

    error: RefusedError
    source_id: str | None = None
    trace_id: str | None = None

    @classmethod
    def of(
        cls, error: Exception, *, source_id: str | None = None, trace_id: str | None = None
    ) -> Refusal:
        """The refusal that tells of this error."""
        known = error if isinstance(error, errors.SetsudenError) else None
        told = RefusedError(
            code=known.code if known else errors.SetsudenError.code,
            message=_text((known.message if known else type(error).__name__)[:2000]),
            field=_text(getattr(error, "field", "")),
            remedy=(known.remedy if known else "")[:1024],
            used_bytes=getattr(error, "used_bytes", None),
            quota_bytes=getattr(error, "quota_bytes", None),
        )
        return cls(error=told, source_id=source_id, trace_id=trace_id)

    def exception(self) -> errors.SetsudenError:
        """The typed error this refusal tells of, carrying the trace id."""
        told = self.error
        found: errors.SetsudenError
        if told.code == errors.OutboxFullError.code:
            found = errors.OutboxFullError(
                used_bytes=told.used_bytes or 0, quota_bytes=told.quota_bytes or 0
            )
        else:
            kind = _CLASSES.get(told.code, errors.RejectedError)
            found = kind(told.message, remedy=told.remedy)
        if isinstance(found, errors.RejectedError):
            found.field = told.field
        found.trace_id, found.code = self.trace_id, told.code
        return found


def _text(words: str) -> str:
    """Words that may quote what came from outside, fit for JSON: half a surrogate pair is not."""
    return words.encode("utf-8", "backslashreplace").decode()[:2048]
