"""A real systemd as the first process of namespaces of its own, with our units and an installation.

systemd is not the first process where tests run, and its sandbox is more than any imitation. Run
as a program in new namespaces, this lays everything out and then becomes systemd.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import install, sealed

SYSTEMD = Path("/lib/systemd/systemd")
INFRA = install.REPOSITORY / "infra"
ETC, RUN = Path("/etc/setsuden"), Path("/run")
UNITS = Path("/etc/systemd/system")
DISTRIBUTION = Path("/lib/systemd/system")
"""Hidden: what it would start at a boot is for the machine itself, not for a test."""
SECONDS = 60.0
_UNSHARE = (
    *("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--cgroup"),
    *("--uts", "--ipc", "--net"),
)
_GROUP = "setsuden-energy"
_LOGS = "[Service]\nStandardOutput=append:/run/%n.log\nStandardError=append:/run/%n.log\n"
_TARGET = "[Unit]\nDefaultDependencies=no\n"
_BROKER = """\
[Service]
ExecStart=/opt/setsuden/bin/nats-server -c /etc/setsuden/nats.conf
"""


_DEVICES = (
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("tty", 5, 0, 0o666),
    ("console", 5, 1, 0o600),
    ("vcio", 1, 3, 0o660),  # opens as null does
    ("kmsg", 1, 11, 0o660),  # a device that no unit names
)


class Machine:
    """A machine whose services are ours."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def do(self, *command: str, check: bool = True) -> str:
        """Run a command on the machine; its output."""
        ended = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--all", *command],  # util-linux
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS + 30,
            check=False,
        )
        if check:
            assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def start(self, unit: str) -> None:
        """Start a unit and return when it says that it is ready."""
        try:
            self.do("systemctl", "start", unit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.show(unit)}\n{self.log(unit)[-3000:]}") from None

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        wanted = names or ("Result", "ExecMainStatus", "ExecMainCode", "StatusText", "NRestarts")
        told = self.do("systemctl", "show", unit, f"--property={','.join(wanted)}")
        return dict(line.split("=", 1) for line in told.splitlines())

    def until(self, unit: str, name: str, value: str) -> None:
        """Return once a property has this value."""
        deadline = time.monotonic() + SECONDS
        while self.show(unit, name)[name] != value:
            assert time.monotonic() < deadline, f"{self.show(unit)}\n{self.log(unit)[-3000:]}"
            time.sleep(0.1)

    def until_logged(self, unit: str, event: str) -> None:
        """Return once the unit's present life has logged this event."""
        deadline = time.monotonic() + SECONDS
        while f'"{event}"' not in self.log(unit):
            assert time.monotonic() < deadline, self.log(unit)[-3000:]
            time.sleep(0.1)

    def log(self, unit: str) -> str:
        """What the unit wrote."""
        return self.do("cat", f"/run/{unit}.log", check=False)

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit as ``systemctl edit`` does."""
        folder = UNITS / f"{unit}.d"
        line = f"mkdir -p {folder} && cat > {folder}/test.conf <<'END'\n{text}\nEND"
        self.do("sh", "-c", line)
        self.do("systemctl", "daemon-reload")

    def status(self, unit: str) -> dict[str, str]:
        """/proc/PID/status of the unit's main process."""
        pid = self.show(unit, "MainPID")["MainPID"]
        lines = self.do("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextmanager
def booted(etc: Path, log: Path) -> Iterator[Machine]:
    """A machine with the files of ``etc`` as /etc/setsuden."""
    if not SYSTEMD.exists():
        sealed.cannot(f"there is no {SYSTEMD}")
    sealed.need_namespaces()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_UNSHARE, sys.executable, __file__, str(etc)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(install.REPOSITORY)},
        )
    try:
        machine = Machine(_first_process(process, log))
        _until_running(machine, log)
        yield machine
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + SECONDS
    while not (found := children.read_text(encoding="ascii").split()):
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8", errors="replace")
        time.sleep(0.02)
    return int(found[0])


def _until_running(machine: Machine, log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while "running" not in machine.do("systemctl", "is-system-running", check=False):
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8", errors="replace")
        time.sleep(0.1)


def _boot(etc: Path) -> None:
    """Make the machine; runs as the first process of its namespaces."""
    copied = [path.read_bytes() for path in sorted(INFRA.glob("*.service"))]
    names = [path.name for path in sorted(INFRA.glob("*.service"))]
    _mount("--make-rprivate", "/")
    install.lay_out()
    for place in (RUN, UNITS, DISTRIBUTION, Path("/var/lib"), Path("/var/tmp"), Path("/tmp")):  # noqa: S108  # in a namespace of our own
        if place in etc.parents:
            _keep(etc)
        _mount("-t", "tmpfs", "tmpfs", str(place))
    ETC.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "tmpfs", str(ETC))
    shutil.copytree(_KEPT if _KEPT.exists() else etc, ETC, dirs_exist_ok=True)
    _control_groups()
    _group()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # iproute2
    _devices()
    for name, content in zip(names, copied, strict=True):
        (UNITS / name).write_bytes(content)
    (UNITS / "service.d").mkdir()
    (UNITS / "service.d/log.conf").write_text(_LOGS, encoding="ascii")
    for target in ("booted", "sysinit", "basic", "shutdown", "multi-user", "network"):
        (UNITS / f"{target}.target").write_text(_TARGET, encoding="ascii")
    (UNITS / "broker.service").write_text(_BROKER, encoding="ascii")
    os.environ["container"] = "setsuden-test"  # noqa: SIM112  # systemd's own name
    _mount("--make-rshared", "/")  # else credentials never reach a service
    os.execv(SYSTEMD, [str(SYSTEMD), "--unit=booted.target"])  # noqa: S606  # we become it


_KEPT = Path("/opt/etc")


def _keep(etc: Path) -> None:
    if not _KEPT.exists():
        shutil.copytree(etc, _KEPT)


def _control_groups() -> None:
    place = Path("/sys/fs/cgroup")
    unified = (place / "cgroup.controllers").exists()
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(place))
    if unified:
        _mount("-t", "cgroup2", "cgroup2", str(place))
        return
    for name, options in (("systemd", "none,name=systemd"), ("devices", "devices")):
        (place / name).mkdir()
        _mount("-t", "cgroup", "-o", options, "cgroup", str(place / name))


def _devices() -> None:
    """A /dev of our own: the usual pseudo devices, a Raspberry Pi's sensor, and one more."""
    place = Path("/dev")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(place))
    for name, major, minor, mode in _DEVICES:
        os.mknod(place / name, 0o020000, os.makedev(major, minor))
        (place / name).chmod(mode)
    for name in ("vcio", "kmsg"):
        shutil.chown(place / name, group="video")
    for name in ("shm", "pts", "mqueue", "hugepages"):
        (place / name).mkdir()
    _mount("-t", "tmpfs", "tmpfs", str(place / "shm"))
    _mount("-t", "devpts", "devpts", str(place / "pts"))
    (place / "ptmx").symlink_to("pts/ptmx")
    (place / "fd").symlink_to("/proc/self/fd")


def _group() -> None:
    """The relay's group, as ``groupadd`` would write it."""
    file = Path("/etc/group")
    changed = RUN / "group"
    changed.write_text(f"{file.read_text(encoding='utf-8')}{_GROUP}:x:979:\n", encoding="utf-8")
    _mount("--bind", str(changed), str(file))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)  # util-linux


if __name__ == "__main__":
    _boot(Path(sys.argv[1]))
