"""The tests' environment as an installation at /opt/setsuden, which every user may read.

A developer's Python often lies in a home folder, where neither a service under ProtectHome nor
another user may go. Run as a program in a mount namespace of its own, it lays the installation
out and then becomes the command that follows.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = ("schemas", "pipelines", "edge_agent", "services")
OPT = Path("/opt")
COMMAND = OPT / "setsuden/bin/setsuden"
NAMESPACE = ("unshare", "--mount", "--propagation", "private")
_SCRIPT = """\
#!/bin/sh
# A Python that was built with a shared library looks for it where it was built.
export LD_LIBRARY_PATH={opt}/python/lib
exec {python} -m setsuden.cli.main "$@"
"""


def command(*words: str) -> list[str]:
    """The words as a command that finds the installation."""
    return [*NAMESPACE, sys.executable, __file__, *words]


def lay_out() -> None:
    """Mount and write everything; needs root and a mount namespace of our own."""
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(OPT))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = [Path(path) for path in site.getsitepackages()]
    for source, target in (
        (Path(sys.base_prefix), OPT / "python"),
        (REPOSITORY, OPT / "source"),
        (packages[0], OPT / "packages"),
        (Path(sysconfig.get_path("scripts")), OPT / "scripts"),
    ):
        target.mkdir()
        _mount("--bind", str(source), str(target))
    root = OPT / "setsuden"
    found = root / "lib" / version / "site-packages"
    found.mkdir(parents=True)
    (root / "bin").mkdir()
    lines = [*(str(OPT / "source" / name) for name in ROOTS), str(OPT / "packages")]
    (found / "setsuden.pth").write_text("\n".join(lines) + "\n", encoding="ascii")
    (root / "pyvenv.cfg").write_text(f"home = {OPT}/python/bin\n", encoding="ascii")
    python = root / "bin/python"
    python.symlink_to(OPT / "python/bin" / version)
    (root / "bin/nats-server").symlink_to(OPT / "scripts/nats-server")
    COMMAND.write_text(_SCRIPT.format(python=python, opt=OPT), encoding="ascii")
    COMMAND.chmod(0o755)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)  # util-linux


if __name__ == "__main__":
    lay_out()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # the command that follows
