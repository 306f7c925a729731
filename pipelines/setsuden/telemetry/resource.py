"""What every span and metric says of its process and machine."""

from __future__ import annotations

import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from .options import TraceOptions
from .span import Value

_ARCHITECTURES = (
    ("aarch64", "arm64"),
    ("arm64", "arm64"),
    ("arm", "arm32"),
    ("x86_64", "amd64"),
    ("amd64", "amd64"),
    ("i386", "x86"),
    ("i486", "x86"),
    ("i586", "x86"),
    ("i686", "x86"),
    ("ppc64", "ppc64"),
    ("ppc", "ppc32"),
    ("s390x", "s390x"),
    ("ia64", "ia64"),
)
"""First fit: how a machine's name begins, and its ``host.arch`` in OpenTelemetry's conventions."""


def resource(service: str, options: TraceOptions) -> dict[str, Value]:
    """What Jaeger needs of every process; ``host.id`` keeps its clock adjuster honest."""
    host = platform.node()
    attributes: dict[str, Value] = {
        "service.name": service,
        "service.version": version("setsuden"),
        "service.instance.id": str(uuid5(NAMESPACE_DNS, f"{host}/{service}/{time.time_ns()}")),
        "host.id": host_id(options),
        "host.name": host,
        "host.arch": architecture(platform.machine()),
    }
    if options.environment is not None:
        attributes["deployment.environment.name"] = options.environment
    return attributes


def architecture(machine: str) -> str:
    """``host.arch`` of what ``uname -m`` says: OpenTelemetry's word where it has one."""
    for prefix, name in _ARCHITECTURES:
        if machine.lower().startswith(prefix):
            return name
    return machine


def host_id(options: TraceOptions) -> str:
    """What tells this machine from others: declared, its machine id, or its name."""
    if options.host_id is not None:
        return options.host_id
    return machine_id(Path("/etc/machine-id")) or platform.node()


def machine_id(path: Path) -> str | None:
    """32 hexadecimal digits; None for anything else.

    An image that was never booted holds nothing, or the word "uninitialized" (machine-id(5)),
    and so does every machine made of it.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None
