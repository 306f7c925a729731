"""Every exception Setsuden raises.

::

    SetsudenError                     code, remedy, trace_id
    ├── ConfigError                   a person wrote it wrong: file, key and nearest right name
    │   └── BundleError               a bundle folder that cannot be used
    ├── RejectedError                 an input was refused and nothing changed
    │   ├── InvalidEventError         an attribute is missing or malformed
    │   ├── InvalidTensorError        shape, dtype, length or NaN
    │   ├── PayloadTooLargeError      refused before parsing
    │   ├── UnknownPipelineError
    │   ├── UnsupportedContentTypeError
    │   ├── RequestRefusedError       an HTTP request that was not let in
    │   └── OutboxFullError           the device's quota is used up
    ├── OutboxLockedError             a second agent on the same outbox
    ├── LinkError                     the broker
    │   ├── UnavailableError          not reachable now: try again
    │   ├── NotDurableError           it cannot prove that an ack survives a power cut
    │   ├── ForbiddenError            credentials do not allow it
    │   │   └── MessageTooLargeError  it never will: over the broker's max_payload
    │   ├── AlreadyStoredError        compare-and-set lost: a result is there (JetStream 10071)
    │   └── StreamFullError           a stream's bound is reached
    ├── TraceDataError                bytes or text that hold no spans of OTLP
    ├── ResultTimeoutError            no final result in the caller's time
    └── MissingExtraError             an optional part is not installed
"""

from __future__ import annotations


class SetsudenError(Exception):
    """Says what is wrong and, in ``remedy``, what to do about it."""

    code = "error"

    def __init__(self, message: str, *, remedy: str = "", trace_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.trace_id = trace_id

    def __str__(self) -> str:
        """The message, then the remedy."""
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class ConfigError(SetsudenError):
    """A configuration that changes nothing because it is wrong (exit code 78)."""

    code = "config_invalid"


class BundleError(ConfigError):
    """A bundle folder whose manifest or files cannot be used."""

    code = "bundle_invalid"


class RejectedError(SetsudenError):
    """An input that was refused; ``field`` names the part at fault."""

    code = "rejected"
    http_status = 400

    def __init__(
        self, message: str, *, field: str = "", remedy: str = "", trace_id: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, trace_id=trace_id)
        self.field = field


class InvalidEventError(RejectedError):
    """An event attribute is missing or malformed."""

    code = "event_invalid"


class InvalidTensorError(RejectedError):
    """The observation does not have the declared shape, dtype, length or finiteness."""

    code = "tensor_invalid"
    http_status = 422


class PayloadTooLargeError(RejectedError):
    """The body is over the pipeline's limit; it was refused before parsing."""

    code = "payload_too_large"
    http_status = 413


class UnknownPipelineError(RejectedError):
    """No pipeline of that name is served here."""

    code = "pipeline_unknown"
    http_status = 404


class UnsupportedContentTypeError(RejectedError):
    """The content type is none that the pipeline declares."""

    code = "content_type_unsupported"
    http_status = 415


class RequestRefusedError(RejectedError):
    """An HTTP request that was refused for where it comes from, its form, its size or its pace."""

    code = "request_refused"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        remedy: str = "",
        http_status: int = 400,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.http_status = http_status
        self.headers = headers
        """Of the answer, where HTTP asks for them: ``Allow``, ``WWW-Authenticate``."""


class OutboxFullError(RejectedError):
    """The outbox quota is used up; nothing accepted was dropped to make room."""

    code = "outbox_full"
    http_status = 507

    def __init__(self, *, used_bytes: int, quota_bytes: int) -> None:
        super().__init__(
            f"outbox is full: {used_bytes} of {quota_bytes} bytes used",
            field="outbox.max_bytes",
            remedy="restore the link so that it drains, or raise outbox.max_bytes",
        )
        self.used_bytes = used_bytes
        self.quota_bytes = quota_bytes


class OutboxLockedError(SetsudenError):
    """Another agent holds this outbox."""

    code = "outbox_locked"


class LinkError(SetsudenError):
    """Something between us and the broker."""

    code = "link"


class UnavailableError(LinkError):
    """The broker cannot be reached now; trying again later is right (exit code 69)."""

    code = "broker_unavailable"


class NotDurableError(LinkError):
    """The broker cannot prove that an acknowledged message survives a power cut."""

    code = "broker_not_durable"


class ForbiddenError(LinkError):
    """The broker refused these credentials or this subject."""

    code = "broker_forbidden"


class MessageTooLargeError(ForbiddenError):
    """The message is over the broker's max_payload: trying again cannot help."""

    code = "message_too_large"


class AlreadyStoredError(LinkError):
    """A record for this subject is already stored: somebody else was first."""

    code = "already_stored"


class StreamFullError(LinkError):
    """A stream's declared bound is reached; nothing was stored."""

    code = "stream_full"


class TraceDataError(SetsudenError):
    """Bytes or text that were meant to be OTLP spans and are none."""

    code = "trace_data_invalid"


class ResultTimeoutError(SetsudenError, TimeoutError):
    """No final result arrived in the caller's time; the event itself lives on."""

    code = "result_timeout"


class MissingExtraError(SetsudenError, ImportError):
    """An optional part of Setsuden is not installed."""

    code = "extra_missing"
