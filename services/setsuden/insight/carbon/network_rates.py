"""Energy of the network per byte: a component of its own, never part of a measured figure.

Published values of one fixed line differ by a factor of a thousand, because a network draws nearly
the same power whether it carries anything or not (Mytton, Lunden and Malmodin 2024, doi
10.1111/jiec.13512; Guennebaud and Bugeau 2024, doi 10.1111/jiec.13513). So three figures:

``low``
    What one more byte costs, from the power model of Malmodin 2020: 0.03 W per Mbit/s on a fixed
    line and 0.02 W per Mbit/s in the router at home, 1.5 W per Mbit/s on a mobile connection.
    The one to decide with.
``mid``
    A share of everything that runs: Carbon Trust 2021. The one to report with.
``high``
    Fixed: Aslan et al. 2018, a value of 2015. Mobile: the EU's ICT study of 2020.
"""

from __future__ import annotations

from typing import NamedTuple

from setsuden.schemas.windows import Access

BYTES_PER_GB = 1e9
LINE_MARGINAL = 6.7e-5
"""kWh/GB: 0.03 W per Mbit/s is 240 J/GB."""
ROUTER_MARGINAL = 4.4e-5
"""kWh/GB: 0.02 W per Mbit/s is 160 J/GB, in the customer's own equipment."""
MOBILE_MARGINAL = 3.3e-3
"""kWh/GB: 1.5 W per Mbit/s is 12 kJ/GB."""


class NetworkRate(NamedTuple):
    """kWh per GB (10^9 bytes on the wire), one way or the other."""

    low: float
    mid: float
    high: float
    source: str


_RATES = {
    Access.FIXED: NetworkRate(
        LINE_MARGINAL + ROUTER_MARGINAL,
        0.0065,
        0.06,
        "low: Malmodin 2020, marginal, line and router; mid: Carbon Trust 2021, transmission; "
        "high: Aslan 2018, value of 2015",
    ),
    Access.MOBILE: NetworkRate(
        MOBILE_MARGINAL,
        0.1,
        0.14,
        "low: Malmodin 2020, marginal; mid: Carbon Trust 2021; high: EU ICT study 2020",
    ),
}


def network_rate(access: Access) -> NetworkRate | None:
    """The rate of this access; None where no usable figure exists: loopback, LAN, undeclared.

    Report None as unknown with source ``none``, not as 0.
    """
    return _RATES.get(access)
