"""A command in a network namespace of its own, where every packet that leaves is seen.

The namespace has a loopback interface and a tun device with a default route and a resolver behind
it. Nobody answers there: what a program sends is read from the device and written down.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

REQUIRED = "SETSUDEN_REQUIRE_NAMESPACES"
"""Set where a test that needs a namespace must not be skipped."""
OUTSIDE = "198.18.0.1"
"""The router, the resolver and every server outside (RFC 2544: a range for tests)."""
_INSIDE = "198.18.0.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_ICMPV6, _HOP_BY_HOP = 58, 0
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp"}


class Sealed(NamedTuple):
    """A command that ended, and what it sent."""

    code: int
    output: str
    packets: list[str]
    """``udp 198.18.0.1:53 example.org``, one for each packet."""
    seconds: float


def need_namespaces() -> None:
    """Skip the test where a network namespace cannot be made, and say why."""
    why = _obstacle()
    if why is not None:
        cannot(why)


def cannot(why: str) -> NoReturn:
    """Skip this test for this reason, or fail it where it must not be skipped."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set and {why}")
    pytest.skip(why)


def _obstacle() -> str | None:
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 240,
) -> Sealed:
    """Run the command in ``folder``, sealed; everything it leaves behind is killed."""
    seen = folder / "packets.jsonl"
    seen.unlink(missing_ok=True)
    began = time.monotonic()
    ended = subprocess.run(
        [*_UNSHARE, sys.executable, __file__, str(seen), *command],
        cwd=folder,
        env=dict(environment) if environment is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_seconds,
        check=False,
    )
    packets = [json.loads(line) for line in seen.read_text(encoding="utf-8").splitlines()]
    output = ended.stdout.decode("utf-8", "replace")
    return Sealed(ended.returncode, output, packets, time.monotonic() - began)


def _inside(seen: Path, command: Sequence[str]) -> int:
    """The namespace's first process: make the network, watch it, run the command."""
    device = _network()
    with seen.open("w", encoding="utf-8", buffering=1) as lines:
        threading.Thread(target=_watch, args=(device, lines), daemon=True).start()
        code = subprocess.run(command, check=False).returncode
        time.sleep(0.2)  # what it sent last is still on its way through the device
    return code


def _network() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    flags = _IFF_TUN | _IFF_NO_PI
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"outside", flags))
    resolver = Path("/run/sealed-resolv.conf")
    _do("mount", "-t", "tmpfs", "tmpfs", "/run")  # no way to a resolver by a UNIX socket either
    resolver.write_text(f"nameserver {OUTSIDE}\n", encoding="ascii")
    _do("mount", "--bind", str(resolver), str(Path("/etc/resolv.conf").resolve()))
    for words in (
        "link set lo up",
        "link set outside addrgenmode none",
        f"addr add {_INSIDE} peer {OUTSIDE} dev outside",
        "-6 addr add fd00::2/64 dev outside nodad",
        "link set outside up",
        f"route add default via {OUTSIDE} dev outside",
        "-6 route add default dev outside",
    ):
        _do("ip", *words.split())
    return device


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


def _watch(device: int, lines: object) -> None:
    with contextlib.suppress(OSError, ValueError):
        while packet := os.read(device, 65_536):
            told = describe(packet)
            if told is not None:
                print(json.dumps(told), file=lines)  # type: ignore[call-overload]


def describe(packet: bytes) -> str | None:
    """What a packet is; None for those that the kernel sends on its own (neighbours, groups)."""
    if packet[0] >> 4 == 4:
        protocol, header = packet[9], 4 * (packet[0] & 15)
        where = socket.inet_ntop(socket.AF_INET, packet[16:20])
    else:
        protocol, header = packet[6], 40
        where = f"[{socket.inet_ntop(socket.AF_INET6, packet[24:40])}]"
        if protocol in {_ICMPV6, _HOP_BY_HOP}:
            return None
    name = _PROTOCOLS.get(protocol, str(protocol))
    if name not in {"tcp", "udp"}:
        return f"{name} {where}"
    port = int.from_bytes(packet[header + 2 : header + 4])
    question = f" {_question(packet[header + 8 :])}" if (name, port) == ("udp", 53) else ""
    return f"{name} {where}:{port}{question}"


def _question(message: bytes) -> str:
    """The name that a DNS message asks for."""
    labels, at = [], 12
    while at < len(message) and (length := message[at]):
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels)


if __name__ == "__main__":
    sys.exit(_inside(Path(sys.argv[1]), sys.argv[2:]))
