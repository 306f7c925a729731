"""What to do where the kernel says «permission denied»."""

from __future__ import annotations


def remedy(pattern: str, *, perf: bool = False) -> str:
    """Ways to let this process read files of ``pattern``, from ``/``, the best first.

    Never ``chmod a+r``: energy counters tell secrets of other processes on a shared machine
    (PLATYPUS, CVE-2020-8694), which is why Linux 5.10 closed them.
    """
    rule = f"`z /{pattern} 0440 root power` in /etc/tmpfiles.d/power.conf"
    ways = [
        f"let a group read it by a udev or systemd-tmpfiles rule, e.g. {rule}, and join the group",
        "or run `setsuden energy watch --serve SOCKET` as root and set energy.relay to its socket",
    ]
    if perf:
        ways.append("or grant CAP_PERFMON and let perf read it (energy.sensor = 'perf')")
    return "; ".join(ways)
