"""Jaeger's query API: traces as OTLP JSON, search, dependencies, links into its UI.

The stable part is ``/api/v3``. Two things need the older API beside it: the dependency graph and
the conversion of uploads; a third, search by attributes, needs it in Jaeger 2.13 only.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

from setsuden.link import web
from setsuden.schemas.errors import (
    ConfigError,
    LinkError,
    PayloadTooLargeError,
    TraceDataError,
    UnavailableError,
)

TIMEOUT_SECONDS = 10.0
ANSWER_MAX_BYTES = 64 * 1024 * 1024
"""Of one answer; a longer one is refused, not cut."""
UPLOAD_MAX_BYTES = 64 * 1024 * 1024
"""Of what :meth:`JaegerQuery.transform` sends."""
_WORDS_MAX_BYTES = 4096
"""Of an error's text."""
_AWAY = frozenset({502, 503, 504})
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")

Document = dict[str, Any]
"""Of OTLP JSON: ``{"resourceSpans": [...]}``, ids in hex, 64-bit integers as strings."""
Instant = datetime | float
"""A moment; as a number, Unix seconds."""


class Dependency(NamedTuple):
    """One edge of the service graph."""

    parent: str
    child: str
    calls: int


class JaegerQuery:
    """One Jaeger at the base address of its query API.

    Every call raises UnavailableError when nobody answers there, and LinkError when the answer is
    a refusal, too long or not Jaeger's.
    """

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{url!r} is no address of a Jaeger",
                remedy="give its query address, such as http://127.0.0.1:16686",
            )
        self.url = url.rstrip("/")
        self.timeout_seconds = timeout_seconds

    def services(self) -> list[str]:
        """Names of all services with spans, sorted."""
        return sorted(self._asked("/api/v3/services").get("services") or [])

    def operations(self, service: str) -> list[str]:
        """Names of this service's spans, sorted."""
        found = self._asked("/api/v3/operations", {"service": service}).get("operations")
        return sorted({operation["name"] for operation in found or []})

    def trace(self, trace_id: str, *, raw: bool = False) -> Document | None:
        """The trace as OTLP JSON, or None; ``raw`` without Jaeger's adjustments and warnings.

        Raises TraceDataError when the id is not 32 hexadecimal digits.
        """
        query = {"raw_traces": "true"} if raw else {}
        answer = self._get(f"/api/v3/traces/{checked_trace_id(trace_id)}", query)
        return None if answer is None else _document(answer)

    def search(
        self,
        service: str,
        *,
        start: Instant,
        end: Instant,
        limit: int,
        operation: str | None = None,
        min_duration: timedelta | None = None,
        max_duration: timedelta | None = None,
    ) -> Document:
        """Whole traces that have a span like this, at most ``limit``, as one OTLP JSON object."""
        query = _search(service, start, end, limit)
        if operation is not None:
            query["query.operation_name"] = operation
        if min_duration is not None:
            query["query.duration_min"] = _go(min_duration)
        if max_duration is not None:
            query["query.duration_max"] = _go(max_duration)
        return self._search(query)

    def find_by_attributes(
        self,
        service: str,
        tags: dict[str, str],
        *,
        start: Instant,
        end: Instant,
        limit: int = 20,
    ) -> set[str]:
        """Ids of traces with one span of the service that has all these attributes.

        Values compare as text, exactly. At most ``limit`` traces.
        """
        asked = json.dumps(tags)
        if self._has_old_search():
            query = {"service": service, "tags": asked, "limit": str(limit)}
            query |= {"start": _microseconds(start), "end": _microseconds(end)}
            answer = self._asked("/api/traces", query)
            return {trace["traceID"] for trace in answer.get("data") or []}
        found = self._search(_search(service, start, end, limit) | {"query.attributes": asked})
        return trace_ids(found)

    def dependencies(self, end: Instant, lookback: timedelta) -> list[Dependency]:
        """The service graph of this time, sorted: who called whom how often."""
        query = {
            "endTs": str(round(_moment(end).timestamp() * 1000)),
            "lookback": str(lookback // timedelta(milliseconds=1)),
        }
        found = self._asked("/api/dependencies", query).get("data") or []
        return sorted(Dependency(row["parent"], row["child"], row["callCount"]) for row in found)

    def transform(self, lines: bytes) -> list[dict[str, Any]]:
        """What Jaeger's UI makes of an upload: JSON Lines of OTLP into its traces, nothing stored.

        Raises TraceDataError for lines that are none, PayloadTooLargeError for too many.
        """
        if len(lines) > UPLOAD_MAX_BYTES:
            raise PayloadTooLargeError(
                f"{len(lines)} bytes of spans, over {UPLOAD_MAX_BYTES}",
                remedy="send fewer lines at a time",
            )
        body = json.dumps({"resourceSpans": _merged(lines)}).encode()
        answer = self._answer("/api/transform", body) or {}
        return list(answer.get("data") or [])

    def trace_link(self, trace_id: str) -> str:
        """Where Jaeger's UI shows this trace; raises TraceDataError when the id is none."""
        return f"{self.url}/trace/{checked_trace_id(trace_id)}"

    def _search(self, query: dict[str, str]) -> Document:
        # A search that finds nothing is a 404 in every version.
        answer = self._get("/api/v3/traces", query)
        return {"resourceSpans": []} if answer is None else _document(answer)

    def _has_old_search(self) -> bool:
        """True for servers whose v1 search is alive.

        Jaeger up to 2.18 ignores ``query.attributes`` and would answer with everything, so what
        it lacks cannot be seen from its answer. Newer ones dropped this endpoint and the search
        together; those between have both.
        """
        try:
            return self._get("/api/services") is not None
        except _NotJsonError:
            return False

    def _asked(self, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        answer = self._get(path, query)
        if answer is None:
            raise LinkError(f"Jaeger at {self.url} knows no {path}", remedy="use Jaeger 2.13+")
        return answer

    def _get(self, path: str, query: dict[str, str] | None = None) -> dict[str, Any] | None:
        return self._answer(f"{path}?{urlencode(query)}" if query else path)

    def _answer(self, path: str, body: bytes | None = None) -> dict[str, Any] | None:
        """The JSON object at this path, None for 404."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        ask = web.get if body is None else partial(web.post, body=body)
        try:
            text = ask(
                self.url + path,
                limit=ANSWER_MAX_BYTES,
                timeout=self.timeout_seconds,
                headers=headers,
            )
        except web.AnswerTooLongError as error:
            raise LinkError(
                f"Jaeger at {self.url} answers with over {ANSWER_MAX_BYTES} bytes",
                remedy="ask for a shorter time or fewer traces",
            ) from error
        except web.WebError as error:
            if error.status == 404:
                return None
            if error.status:
                raise self._refused(error) from error
            raise UnavailableError(
                f"no Jaeger answers at {self.url}",
                remedy="start one (make jaeger builds it), or give the query address of yours",
            ) from error
        return _parsed(text, self.url)

    def _refused(self, error: web.WebError) -> LinkError:
        kind = UnavailableError if error.status in _AWAY else LinkError
        reason = _reason(error.body[:_WORDS_MAX_BYTES]) or str(error)
        return kind(f"Jaeger at {self.url} refused with {error.status}: {reason}")


class _NotJsonError(LinkError):
    """The answer is no JSON object."""


def checked_trace_id(trace_id: str) -> str:
    """The id in lower case; raises TraceDataError unless it is 32 hexadecimal digits."""
    found = trace_id.strip().lower()
    if not _TRACE_ID.fullmatch(found):
        raise TraceDataError(
            f"{trace_id[:80]!r} is no trace id", remedy="give its 32 hexadecimal digits"
        )
    return found


def trace_ids(document: Document) -> set[str]:
    """Ids of all traces in an OTLP JSON object."""
    return {
        span["traceId"]
        for resource in document.get("resourceSpans") or []
        for scope in resource.get("scopeSpans") or []
        for span in scope.get("spans") or []
    }


def _document(answer: dict[str, Any]) -> Document:
    found = answer.get("result") or {}
    return {"resourceSpans": list(found.get("resourceSpans") or [])}


def _parsed(text: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(text, object_hook=_whole_id)
    except (ValueError, RecursionError) as error:
        raise _not_json(url) from error
    if not isinstance(found, dict):
        raise _not_json(url)
    return found


def _reason(body: bytes) -> str:
    """Jaeger's own words in an error's body: v3 and v1 put them in different places."""
    words = body.decode("utf-8", "replace")
    with suppress(ValueError, KeyError, TypeError, IndexError, RecursionError):
        found = json.loads(words)
        words = str(found["error"]["message"] if "error" in found else found["errors"][0]["msg"])
    return " ".join(words.split())[:300]


def _not_json(url: str) -> _NotJsonError:
    # Jaeger 2.13 answers a path it does not know with its UI and status 200.
    return _NotJsonError(
        f"{url} answers with no JSON object", remedy="give the query address of a Jaeger"
    )


def _whole_id(found: dict[str, Any]) -> dict[str, Any]:
    # The v1 API drops the leading 16 digits of an id when they are zeros.
    if isinstance(short := found.get("traceID"), str):
        found["traceID"] = short.zfill(32)
    return found


def _merged(lines: bytes) -> list[Any]:
    """Resource spans of all lines: Jaeger itself reads the first object only."""
    found: list[Any] = []
    for number, line in enumerate(lines.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found += json.loads(line)["resourceSpans"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TraceDataError(
                f"line {number} holds no resourceSpans", remedy="send OTLP JSON, an object a line"
            ) from error
    return found


def _search(service: str, start: Instant, end: Instant, limit: int) -> dict[str, str]:
    # The old names: Jaeger 2.13 knows no others, and newer ones take both.
    return {
        "query.service_name": service,
        "query.start_time_min": _moment(start).isoformat(),
        "query.start_time_max": _moment(end).isoformat(),
        "query.num_traces": str(limit),
    }


def _moment(instant: Instant) -> datetime:
    if isinstance(instant, datetime):
        return instant.astimezone(UTC)
    return datetime.fromtimestamp(instant, UTC)


def _microseconds(instant: Instant) -> str:
    return str((_moment(instant) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1))


def _go(duration: timedelta) -> str:
    return f"{duration // timedelta(microseconds=1)}us"
