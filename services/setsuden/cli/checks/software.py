"""Checks of what is installed: onnxruntime (in a child process), Ray, the optional parts."""

from __future__ import annotations

import importlib.metadata
import re
import signal
import sys
from collections.abc import Mapping, Sequence

from setsuden.process import quiet  # noqa: F401  # the probe below inherits it

from .machine import CheckedMachine, CheckResult, CheckStatus, Completed

_ONE_NODE = (
    "CAcSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ=="
)
"""An ONNX graph of one Identity node, y = x, base64."""
PROBE = f"""
import base64, sys
try:
    import numpy, onnxruntime
except ImportError as error:
    sys.exit(f"missing {{error.name}}")
session = onnxruntime.InferenceSession(
    base64.b64decode("{_ONE_NODE}"), providers=["CPUExecutionProvider"]
)
(output,) = session.run(None, {{"x": numpy.ones(1, numpy.float32)}})
print(onnxruntime.__version__ if output.tolist() == [1.0] else "wrong answer")
"""
_SIGNALS = {
    signal.SIGILL: (
        "this CPU, or what the hypervisor shows of it, lacks an instruction that the wheel uses",
        "lscpu | grep -iE 'flags|features'   # then show the guest its host's CPU (-cpu host)",
    ),
    signal.SIGABRT: (
        "onnxruntime gave up while it looked at the CPU: containers that hide /sys do that",
        "docker run -v /sys/devices/system/cpu:/sys/devices/system/cpu:ro …",
    ),
    signal.SIGKILL: ("it was killed, most often for want of memory", "sudo dmesg | tail"),
}
_EXTRA = re.compile(r"^([A-Za-z0-9._-]+).*;.*extra == ['\"]([a-z]+)['\"]")


def onnxruntime(machine: CheckedMachine, *, needed: bool) -> CheckResult:
    """A model of one node runs, in a child process that may die of it."""
    ended = machine.run([sys.executable, "-c", PROBE])
    if ended is None:
        cause = f"{sys.executable} cannot be started"
        return CheckResult(
            "onnxruntime", CheckStatus.FAIL, "unknown", cause, "python3 -m venv .venv"
        )
    if ended.code == 0:
        return CheckResult("onnxruntime", CheckStatus.OK, f"{ended.output.strip()}, runs a model")
    if ended.code < 0:
        return _died(signal.Signals(-ended.code))
    if ended.errors.startswith("missing"):
        status = CheckStatus.FAIL if needed else CheckStatus.WARN
        cause = "agent and worker cannot run a model; the client needs none"
        seen = ended.errors.strip().replace("missing", "not installed:", 1)
        return CheckResult("onnxruntime", status, seen, cause, "pip install 'setsuden[edge]'")
    cause = _last_line(ended)
    remedy = "pip install --force-reinstall onnxruntime"
    return CheckResult("onnxruntime", CheckStatus.FAIL, "cannot run a model", cause, remedy)


def _died(number: signal.Signals) -> CheckResult:
    unknown = ("the wheel does not fit this machine", "pip install --force-reinstall onnxruntime")
    cause, remedy = _SIGNALS.get(number, unknown)
    return CheckResult("onnxruntime", CheckStatus.FAIL, f"killed by {number.name}", cause, remedy)


def _last_line(ended: Completed) -> str:
    lines = ended.errors.strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {ended.code}"


def ray(machine: CheckedMachine, *, needed: bool) -> CheckResult:
    """Installed or not; it is not imported, which would take seconds."""
    version = machine.installed("ray")
    if version is not None:
        return CheckResult("ray", CheckStatus.OK, version)
    if not needed:
        return CheckResult("ray", CheckStatus.OK, "not installed; devices need none")
    cause = "`setsuden cloud run` needs it; `setsuden worker run` does not"
    return CheckResult(
        "ray", CheckStatus.WARN, "not installed", cause, "pip install 'setsuden[cloud]'"
    )


def extras(machine: CheckedMachine, requirements: Sequence[str] | None = None) -> CheckResult:
    """Which optional parts are complete, and what the others lack."""
    wanted = _by_extra(_requirements() if requirements is None else requirements)
    parts = []
    for extra, names in wanted.items():
        missing = [name for name in names if machine.installed(name) is None]
        if not missing:
            parts.append(extra)
        elif len(missing) < len(names):
            parts.append(f"{extra} (without {', '.join(missing)})")
    return CheckResult("extras", CheckStatus.OK, ", ".join(parts) or "none: the client alone")


def _requirements() -> Sequence[str]:
    return importlib.metadata.requires("setsuden") or []


def _by_extra(requirements: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        match = _EXTRA.match(requirement)
        if match is not None and match[1] != "setsuden":
            found.setdefault(match[2], []).append(match[1])
    return found
