"""What the page's joules are of: 1,000 inferences, or the whole run where none ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from setsuden.insight.report.model import Amount, Cell, Report
from setsuden.insight.report.page.numbers import Unit, fit
from setsuden.insight.report.page.words import amount, interval


class Basis(NamedTuple):
    """One choice, and one unit, for every figure of the page that is compared."""

    per_1000: bool
    unit: Unit

    @property
    def words(self) -> str:
        """Of what."""
        return "per 1,000 inferences" if self.per_1000 else "in the whole run"

    def of(self, cell: Cell | None) -> Amount | None:
        """The figure that is shown of a cell."""
        if cell is None:
            return None
        return cell.per_1000 if self.per_1000 else cell.total

    def mid(self, known: Amount | None) -> str:
        """The figure in words."""
        return amount(known, self.unit)

    def between(self, known: Amount | None) -> str:
        """Its interval in words; empty when nothing is known."""
        return interval(known, self.unit)


def basis_of(report: Report) -> Basis:
    """Per 1,000 where there are inferences; the unit is the headline's, or fits what is known."""
    choice = Basis(report.whole.per_1000 is not None, Unit(1.0, "J"))
    whole = choice.of(report.whole)
    known = whole if whole is not None and whole.joules is not None else None
    highs = [known.high] if known is not None else list(_highs(report, choice))
    return choice._replace(unit=fit(highs, "J"))


def _highs(report: Report, choice: Basis) -> Iterator[float | None]:
    for component in report.components:
        shown = choice.of(component.whole)
        yield shown.high if shown is not None else None
    for other in (report.all_edge, report.all_cloud):
        yield other.per_1000.high if other.per_1000 is not None else None
