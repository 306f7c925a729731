"""Names and addresses of hosts as HTTP and configuration write them."""

from __future__ import annotations

import ipaddress


def name_of(host: str) -> str:
    """A host without its port, its brackets and its case; addresses in their shortest form."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    address = _address(name)
    return name.removesuffix(".") if address is None else str(address)


def is_loopback(host: str) -> bool:
    """True for an address, or the one name, that only this machine reaches."""
    return name_of(host) == "localhost" or is_loopback_address(host)


def is_loopback_address(host: str) -> bool:
    """True for ``127.0.0.0/8`` and ``::1``; false for every name, whatever it resolves to."""
    address = _address(name_of(host))
    return address is not None and address.is_loopback


def is_unspecified(host: str) -> bool:
    """True for ``0.0.0.0``, ``::`` and nothing at all: every address of the machine."""
    address = _address(name_of(host))
    return not host or (address is not None and address.is_unspecified)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else ipaddress.IPv4Address(mapped)
