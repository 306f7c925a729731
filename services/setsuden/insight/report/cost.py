"""Euros of a run and of its counterfactuals, from declared prices alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from typing import NamedTuple

from setsuden.insight.carbon.cost import cost
from setsuden.insight.carbon.embodied import YEAR_SECONDS
from setsuden.insight.report.amounts import sum_known
from setsuden.insight.report.model import ComponentReport, Cost, CostRow, Counterfactual, Part
from setsuden.insight.report.run import PARTS, Metered, Run


class Euros(NamedTuple):
    """Of one machine for the run."""

    electricity: float | None
    instance: float | None
    device: float | None
    missing: tuple[str, ...]


def cost_of(
    run: Run,
    components: Sequence[ComponentReport],
    edge: Counterfactual,
    cloud: Counterfactual,
) -> Cost:
    """The run's euros, and those per 1,000 events of it and of both counterfactuals."""
    rows = tuple(_row(run, part) for part in PARTS if run.of(part))
    missing = [words for one in run.meters for words in _euros(run, one).missing]
    per_1000 = 1000 / run.inferences if run.inferences else None
    whole = sum_known(row.whole_eur for row in rows)
    complete = bool(rows) and all(row.complete for row in rows)
    return Cost(
        rows=rows,
        per_1000_eur=None if whole is None or per_1000 is None else whole * per_1000,
        all_edge_per_1000_eur=_otherwise(rows, components, edge, per_1000),
        all_cloud_per_1000_eur=_otherwise(rows, components, cloud, per_1000),
        complete=complete and all(c.whole.total.complete for c in components),
        undeclared=tuple(dict.fromkeys(missing)),
    )


def _row(run: Run, part: Part) -> CostRow:
    euros = [_euros(run, one) for one in run.of(part)]
    columns = [sum_known(column) for column in list(zip(*euros, strict=True))[:3]]
    known = all(one.electricity is not None or one.instance is not None for one in euros)
    return CostRow(
        component=part,
        electricity_eur=columns[0],
        instance_eur=columns[1],
        device_eur=columns[2],
        whole_eur=sum_known(columns),
        complete=known and all(one.joules.whole.complete for one in run.of(part)),
    )


def _euros(run: Run, one: Metered) -> Euros:
    meter, sums = one.sums.meter, one.sums
    site = run.assumptions.site(meter)
    found = cost(
        run.assumptions.rents.get(meter.component) or site.price,
        joules=one.joules.whole.joules,
        seconds=sums.seconds.value,
        reserved_share=meter.reserved_share,
        pue=site.profile.pue if site.profile is not None else 1.0,
    )
    if found.method == "rent":
        return Euros(None, found.euros, None, ())
    device = _device(run, one)
    missing = tuple(_missing(run, one, electricity=found.euros, device=device))
    return Euros(found.euros, None, device, missing)


def _device(run: Run, one: Metered) -> float | None:
    """The price's part for the time the machine was reserved, over its life."""
    declared = run.assumptions.devices.get(one.sums.meter.component)
    years = _lifespan(run, one)
    if declared is None or years is None:
        return None
    meter = one.sums.meter
    reserved = one.sums.seconds.value * meter.reserved_share
    return declared.euros * reserved / (years * YEAR_SECONDS)


def _lifespan(run: Run, one: Metered) -> float | None:
    declared = run.assumptions.devices.get(one.sums.meter.component)
    profile = run.assumptions.site(one.sums.meter).profile
    own = declared.lifespan_years if declared is not None else None
    return own or (profile.lifespan_years if profile is not None else None)


def _missing(
    run: Run, one: Metered, *, electricity: float | None, device: float | None
) -> Iterator[str]:
    site = run.assumptions.site_name(one.sums.meter)
    if run.assumptions.site(one.sums.meter).price is None:
        yield f"price of {one.part}: a tariff at site {site}, or a rent"
    elif electricity is None:
        yield f"joules of {one.part}, for its electricity"
    if device is None:
        if run.assumptions.devices.get(one.sums.meter.component) is None:
            yield f"price of a machine of {one.part}"
        else:
            yield f"lifespan of a machine of {one.part}"


def _otherwise(
    rows: Sequence[CostRow],
    components: Sequence[ComponentReport],
    other: Counterfactual,
    per_1000: float | None,
) -> float | None:
    """Rent and machines as in the run where the scenario has them; electricity by its joules."""
    wanted = [row for row in rows if row.component in other.by_component]
    if per_1000 is None or other.per_1000 is None or not all(row.complete for row in wanted):
        return None
    if {row.component for row in wanted} != set(other.by_component) - {Part.NETWORK}:
        return None
    by = {component.component: component for component in components}
    return fsum(_changed(row, by[row.component], other) for row in wanted) * per_1000


def _changed(row: CostRow, component: ComponentReport, other: Counterfactual) -> float:
    was = component.whole.per_1000.joules if component.whole.per_1000 is not None else None
    now = other.by_component[row.component].joules
    factor = now / was if was and now is not None else 1.0
    fixed = fsum((row.instance_eur or 0.0, row.device_eur or 0.0))
    return fsum((fixed, (row.electricity_eur or 0.0) * factor))
