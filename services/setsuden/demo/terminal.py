"""The run as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from setsuden.insight.report.model import Report
from setsuden.insight.report.render.terminal import text as energy_text

from .report_model import DemoReport, Percentiles


def text(report: DemoReport, waterfall: Sequence[str], energy: Report) -> str:
    """The whole closing message; ``waterfall`` are the sample's lines."""
    return "\n".join(
        (
            "",
            *_numbers(report),
            "",
            *_sample(report, waterfall),
            "",
            energy_text(energy),
            "",
            *_places(report),
            "",
            *_next(report),
        )
    )


def _numbers(report: DemoReport) -> list[str]:
    accuracy, latency = report.accuracy, report.latency_ms
    share = report.escalated / max(report.accepted, 1)
    outage = f", broker dead for {report.outage_s:.1f} s" if report.outage_s else ""
    return [
        (
            f"{report.accepted} events accepted, {report.final} final, {report.lost} lost, "
            f"{report.doubled} doubled, {report.expired} expired{outage}"
        ),
        "",
        (
            f"accuracy     student {accuracy.student:.2%}   cascade {accuracy.cascade:.2%}   "
            f"teacher {accuracy.teacher:.2%}"
        ),
        f"escalated    {report.escalated} ({share:.1%}), {report.bytes_up:,} bytes up",
        (
            f"latency      easy {_percentiles(latency.easy)}   "
            f"escalated {_percentiles(latency.escalated)}"
        ),
    ]


def _percentiles(found: Percentiles) -> str:
    if found.p50 is None or found.p99 is None:
        return "none"
    return f"p50 {found.p50:.1f} ms, p99 {found.p99:.1f} ms"


def _sample(report: DemoReport, waterfall: Sequence[str]) -> list[str]:
    if report.sample is None:
        return ["no event was escalated"]
    return ["one escalated event:", *waterfall]


def _places(report: DemoReport) -> list[str]:
    files, jaeger, sample = report.files, report.jaeger, report.sample
    found = [
        f"trace file   {files.trace}",
        f"the run      {files.report}",
        f"its energy   {files.energy}",
    ]
    if files.sample is not None:
        found.append(f"its trace    {files.sample}")
    if jaeger.url is not None and sample is not None:
        found.append(f"in Jaeger    {jaeger.url}/trace/{sample.trace_id}")
    if jaeger.spans_dropped:
        found.append(f"spans lost   {jaeger.spans_dropped}")
    return found


def _next(report: DemoReport) -> list[str]:
    mode = "" if report.cloud == "ray-serve" else " --plain"
    return [
        "three things to try next:",
        f"  setsuden demo{mode} --outage 10s      kill the broker in the middle",
        f"  setsuden demo{mode} --escalate 0.05   a cheaper cascade, and what it costs in accuracy",
        "  setsuden init my-site             an agent of your own to start from",
    ]
