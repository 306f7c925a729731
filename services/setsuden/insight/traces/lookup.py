"""One trace by its id or the beginning of it, with what belongs to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.spans import SERVICE_WORKER

from . import figures
from .read import Damage, is_url, load, recent
from .tree import Trace, traces_of

SHORTEST_PREFIX = 6
WHOLE = 32
MAX_BATCHES = 8
"""Batch traces of one trace that are asked of a Jaeger."""
OTHER_TRACES = 20
"""Of the worker's newest, to say what a teacher's run costs."""
_PREFIX = re.compile(f"(?!0{{{WHOLE}}})[0-9a-f]{{{SHORTEST_PREFIX},{WHOLE}}}")


def checked(text: str) -> str:
    """A trace id or its beginning, in lower case; raises TraceDataError."""
    found = text.strip().lower()
    if not _PREFIX.fullmatch(found):
        raise TraceDataError(
            f"{text[:80]!r} is no trace id",
            remedy=f"give its {WHOLE} hexadecimal digits, or the first {SHORTEST_PREFIX} or more",
        )
    return found


def gather(
    sources: Sequence[str], wanted: str, *, others: bool = False, damage: Damage | None = None
) -> tuple[dict[str, Trace], str]:
    """As :func:`seek`; raises TraceDataError when the trace is not there."""
    traces, found = seek(sources, wanted, others=others, damage=damage)
    if found is None:
        raise TraceDataError(
            f"no trace {wanted} in {', '.join(sources)}",
            remedy="name another source with --from; of easy events only a share is traced "
            "(traces.easy_share), and spans may still wait in a spool",
        )
    return traces, found


def seek(
    sources: Sequence[str], wanted: str, *, others: bool = False, damage: Damage | None = None
) -> tuple[dict[str, Trace], str | None]:
    """The traces read, and the whole id of the one wanted, or None without it.

    Files are read whole. Of a Jaeger it is the trace and its batches; with ``others``, for an event
    that no teacher saw, also some that a teacher did. Raises TraceDataError for what is no id, and
    for the beginning of several.
    """
    prefix = checked(wanted)
    if len(prefix) < WHOLE and any(map(is_url, sources)):
        raise TraceDataError(
            f"{prefix} is the beginning of a trace id",
            remedy=f"a Jaeger needs all {WHOLE} digits; files take a beginning",
        )
    traces = traces_of(load(sources, prefix, damage))
    found = find(traces, prefix)
    if found is not None:
        for url in filter(is_url, sources):
            traces = _with_company(traces, found, url, others=others)
    return traces, found


def find(traces: Mapping[str, Trace], prefix: str) -> str | None:
    """The one id that begins so; raises TraceDataError when several do."""
    fitting = [trace_id for trace_id in traces if trace_id.startswith(prefix)]
    if len(fitting) > 1:
        raise TraceDataError(
            f"{len(fitting)} traces begin with {prefix}: {', '.join(fitting[:4])}",
            remedy="give more digits",
        )
    return fitting[0] if fitting else None


def _with_company(
    traces: dict[str, Trace], trace_id: str, url: str, *, others: bool
) -> dict[str, Trace]:
    """What a Jaeger was not asked for yet and the trace is to be compared with."""
    trace = traces[trace_id]
    named = {member.trace_id for member in figures.memberships(trace)}
    more = [span for batch in sorted(named)[:MAX_BATCHES] for span in load([url], batch)]
    if others and not figures.teachers(trace):
        more += recent(url, SERVICE_WORKER, OTHER_TRACES)
    return {**traces_of(more), **traces}
