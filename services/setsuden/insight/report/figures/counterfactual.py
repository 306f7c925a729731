"""The same events answered another way: by the student alone, or all by the teacher.

Nothing is measured twice: each joule of the run is multiplied by how often its cause would have
happened. Accuracy is not compared: all-edge is cheaper and wrong more often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import fsum
from typing import Literal, NamedTuple

from setsuden.insight.report.model import (
    Amount,
    ComponentReport,
    Counterfactual,
    Difference,
    Part,
    Verdict,
)
from setsuden.insight.report.totals.amounts import added
from setsuden.insight.report.totals.run import RunTotals

Scenario = Literal["all_edge", "all_cloud"]
IDLE_STAYS = (
    "reserved machines stay reserved: idle joules of the device, and in all-cloud those of broker "
    "and cloud, are as in the run"
)
ASSUMED: dict[Scenario, tuple[str, ...]] = {
    "all_edge": (
        "the student's joules per event as in the run, for every event; its answers are final",
        "no broker, no network, no cloud machines",
        "the device's overhead is kept, though a part of it is the uplink's",
        IDLE_STAYS,
        "accuracy is not claimed: the student alone is wrong more often",
    ),
    "all_cloud": (
        "bytes and the teacher's joules per escalated event as in the run, for every event",
        "joules of the broker's messages: between those of the run and as many times more",
        "overhead of broker and cloud: between that of the run and as many times more",
        "no student; the device's overhead is kept",
        IDLE_STAYS,
    ),
}


class Multiple(NamedTuple):
    """How many times the run's joules."""

    low: float
    mid: float
    high: float


class Term(NamedTuple):
    """One cell of the run's table, per 1,000, and what the scenario makes of it."""

    part: Part
    amount: Amount
    scale: Multiple
    stretch: float
    """By how much its joules may be larger, if windows without any used as much as the others."""


class ScenarioWork(NamedTuple):
    """What the scenario does for all events of the run."""

    inferences: int
    cpu_seconds: float
    wire_bytes: float


SAME, NEVER = Multiple(1, 1, 1), Multiple(0, 0, 0)


def times(factor: float) -> Multiple:
    """Exactly so many times."""
    return Multiple(factor, factor, factor)


def up_to(factor: float, mid: float) -> Multiple:
    """Between as in the run and so many times."""
    return Multiple(min(1.0, factor), mid, max(1.0, factor))


def all_edge(run: RunTotals, components: Sequence[ComponentReport]) -> Counterfactual:
    """Every event answered by the student alone."""
    items = fsum(
        work.items.value for meter in run.of(Part.EDGE) for work in meter.sums.work.values()
    )
    if not run.inferences or items <= 0:
        return _none("all_edge", "no student ran and ended an event in the run")
    student = run.inferences / items
    scales = {(Part.EDGE, "dynamic"): times(student)}
    scales |= {(Part.EDGE, "idle"): SAME, (Part.EDGE, "overhead"): SAME}
    edge = components[0]
    cpu = edge.cpu_seconds + (student - 1) * edge.inference_cpu_seconds
    return _scenario(
        "all_edge", list(_terms(components, scales)), ScenarioWork(run.inferences, cpu, 0.0)
    )


def all_cloud(run: RunTotals, components: Sequence[ComponentReport]) -> Counterfactual:
    """Every event escalated, without a student."""
    escalated = run.events.escalated
    if not run.inferences or not escalated:
        return _none("all_cloud", "nothing was escalated: the run has no joules of it")
    k = run.inferences / escalated
    halfway = (1 + k) / 2
    scales = {
        (Part.EDGE, "dynamic"): NEVER,
        (Part.EDGE, "idle"): SAME,
        (Part.EDGE, "overhead"): SAME,
        (Part.BROKER, "dynamic"): up_to(k, k),
        (Part.BROKER, "idle"): SAME,
        (Part.BROKER, "overhead"): up_to(k, halfway),
        (Part.NETWORK, "dynamic"): times(k),
        (Part.CLOUD, "dynamic"): times(k),
        (Part.CLOUD, "idle"): SAME,
        (Part.CLOUD, "overhead"): up_to(k, halfway),
    }
    edge, broker, _, cloud = components
    cpu = fsum(
        (
            edge.cpu_seconds - edge.inference_cpu_seconds,
            broker.inference_cpu_seconds * k,
            (broker.cpu_seconds - broker.inference_cpu_seconds) * halfway,
            cloud.inference_cpu_seconds * k,
            (cloud.cpu_seconds - cloud.inference_cpu_seconds) * halfway,
        )
    )
    work = ScenarioWork(run.inferences, cpu, run.wire_bytes * k)
    return _scenario("all_cloud", list(_terms(components, scales)), work)


def _none(scenario: Scenario, reason: str) -> Counterfactual:
    return Counterfactual(
        scenario=scenario,
        per_1000=None,
        by_component={},
        difference=None,
        verdict=Verdict.CANNOT_TELL,
        cpu_seconds_per_1000=None,
        bytes_per_1000=None,
        assumptions=ASSUMED[scenario],
        reason=reason,
    )


def _scenario(scenario: Scenario, terms: Sequence[Term], work: ScenarioWork) -> Counterfactual:
    used = [part for part in Part if any(t.part is part and t.scale != NEVER for t in terms)]
    by = {part: added(_scaled(term) for term in terms if term.part is part) for part in used}
    difference = difference_of(terms)
    return Counterfactual(
        scenario=scenario,
        per_1000=added(by.values()),
        by_component=by,
        difference=difference,
        verdict=verdict_of(difference),
        cpu_seconds_per_1000=work.cpu_seconds * 1000 / work.inferences,
        bytes_per_1000=work.wire_bytes * 1000 / work.inferences,
        assumptions=ASSUMED[scenario],
    )


def _terms(
    components: Sequence[ComponentReport], scales: dict[tuple[Part, str], Multiple]
) -> Iterator[Term]:
    for component in components:
        known = component.seconds - component.unknown_seconds
        stretch = component.seconds / known if known > 0 else 1.0
        for name in ("dynamic", "idle", "overhead"):
            cell = getattr(component, name)
            if cell is not None:
                scale = scales.get((component.component, name), NEVER)
                yield Term(component.component, cell.per_1000, scale, stretch)
        if component.dynamic is None:  # without rows: unknown, and not split
            known_scales = [s for (part, _), s in scales.items() if part is component.component]
            highest = max(known_scales, default=NEVER)
            yield Term(component.component, component.whole.total, highest, 1.0)


def _scaled(term: Term) -> Amount:
    amount, by = term.amount, term.scale
    if amount.joules is None or amount.low is None or amount.high is None:
        return amount
    ends = {
        "joules": amount.joules * by.mid,
        "low": amount.low * by.low,
        "high": amount.high * by.high,
    }
    return amount.model_copy(update=ends)


def difference_of(terms: Sequence[Term]) -> Difference:
    """Scenario minus run, J per 1,000.

    Each coefficient has one value in both, so only the joules by which they differ carry its
    error; coefficients of different meters may all err the same way, so their bounds add.
    """
    lows, mids, highs = [], [], []
    for term in terms:
        low, mid, high = _change(term)
        lows.append(low)
        mids.append(mid)
        highs.append(high)
    return Difference(joules=_sum(mids), low=_sum(lows), high=_sum(highs))


def _change(term: Term) -> tuple[float | None, float | None, float | None]:
    """Low, mid and high of (scale - 1) x joules; None: no bound is known."""
    amount, by = term.amount, term.scale
    if by == SAME or (amount.joules is None and amount.complete):
        return 0.0, 0.0, 0.0
    if amount.joules is None or amount.low is None or amount.high is None:
        return (0.0 if by.low >= 1 else None, None, 0.0 if by.high <= 1 else None)
    ends = [
        (scale - 1) * joules
        for scale, joules in product((by.low, by.high), (amount.low, amount.high * term.stretch))
    ]
    return min(ends), (by.mid - 1) * amount.joules, max(ends)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) if len(known) == len(values) else None


def verdict_of(difference: Difference) -> Verdict:
    """Of the cascade: its saving is the scenario's joules minus its own."""
    if difference.low is not None and difference.low > 0:
        return Verdict.SAVES
    if difference.high is not None and difference.high < 0:
        return Verdict.COSTS
    return Verdict.CANNOT_TELL
