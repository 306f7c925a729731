"""Euros of a run and of its counterfactuals, from declared prices alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from typing import NamedTuple

from setsuden.insight.carbon.sites import YEAR_SECONDS, charge
from setsuden.insight.report.model import ComponentReport, Cost, CostRow, Counterfactual, Part
from setsuden.insight.report.totals.amounts import sum_known
from setsuden.insight.report.totals.run import MACHINE_PARTS, MeterTotals, RunTotals


class MeterEuros(NamedTuple):
    """What one machine cost over the run."""

    electricity: float | None
    instance: float | None
    device: float | None
    missing: tuple[str, ...]


def cost_of(
    run: RunTotals,
    components: Sequence[ComponentReport],
    edge: Counterfactual,
    cloud: Counterfactual,
) -> Cost:
    """The run's euros, and those per 1,000 events of it and of both counterfactuals."""
    rows = tuple(_row(run, part) for part in MACHINE_PARTS if run.of(part))
    missing = [name for meter in run.meters for name in _euros(run, meter).missing]
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


def _row(run: RunTotals, part: Part) -> CostRow:
    euros = [_euros(run, meter) for meter in run.of(part)]
    columns = [sum_known(column) for column in list(zip(*euros, strict=True))[:3]]
    known = all(meter.electricity is not None or meter.instance is not None for meter in euros)
    return CostRow(
        component=part,
        electricity_eur=columns[0],
        instance_eur=columns[1],
        device_eur=columns[2],
        whole_eur=sum_known(columns),
        complete=known and all(meter.joules.whole.complete for meter in run.of(part)),
    )


def _euros(run: RunTotals, meter: MeterTotals) -> MeterEuros:
    site = run.assumptions.site(meter.row)
    charged = charge(
        run.assumptions.rents.get(meter.row.component) or site.price,
        joules=meter.joules.whole.joules,
        seconds=meter.sums.seconds.value,
        reserved_share=meter.row.reserved_share,
        pue=site.profile.pue if site.profile is not None else 1.0,
    )
    if charged.method == "rent":
        return MeterEuros(None, charged.euros, None, ())
    device = _device(run, meter)
    missing = tuple(_missing(run, meter, electricity=charged.euros, device=device))
    return MeterEuros(charged.euros, None, device, missing)


def _device(run: RunTotals, meter: MeterTotals) -> float | None:
    """The price, times the reserved time over the machine's lifespan."""
    declared = run.assumptions.devices.get(meter.row.component)
    years = _lifespan(run, meter)
    if declared is None or years is None:
        return None
    reserved = meter.sums.seconds.value * meter.row.reserved_share
    return declared.euros * reserved / (years * YEAR_SECONDS)


def _lifespan(run: RunTotals, meter: MeterTotals) -> float | None:
    declared = run.assumptions.devices.get(meter.row.component)
    profile = run.assumptions.site(meter.row).profile
    own = declared.lifespan_years if declared is not None else None
    return own or (profile.lifespan_years if profile is not None else None)


def _missing(
    run: RunTotals, meter: MeterTotals, *, electricity: float | None, device: float | None
) -> Iterator[str]:
    site = run.assumptions.site_name(meter.row)
    if run.assumptions.site(meter.row).price is None:
        yield f"price of {meter.part}: a tariff at site {site}, or a rent"
    elif electricity is None:
        yield f"joules of {meter.part}, for its electricity"
    if device is None:
        if run.assumptions.devices.get(meter.row.component) is None:
            yield f"price of a machine of {meter.part}"
        else:
            yield f"lifespan of a machine of {meter.part}"


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
