"""The folder and the environment of a local Ray: short paths, no home, nobody asked."""

from __future__ import annotations

import os
import secrets
import site
import tempfile
from pathlib import Path

from setsuden.process import quiet
from setsuden.schemas.errors import ConfigError

_MAX_SOCKET_PATH = 107
"""Of an AF_UNIX address: sockaddr_un holds 108 bytes with the closing zero (unix(7))."""
_RAYS_PART = len("/session_2026-11-28_14-50-00_123456_1234567/sockets/plasma_store")
_PREFIX = "setsuden-"
_RANDOM = 8
"""Characters that mkdtemp adds."""
MAX_FOLDER = _MAX_SOCKET_PATH - _RAYS_PART - len(f"/{_PREFIX}") - _RANDOM
"""Bytes in the path of a folder in which a session's folder still is short enough for Ray."""


def session_folder() -> Path:
    """A new folder whose sockets Ray can open; raises ConfigError where there is no place."""
    wanted = tempfile.gettempdir()
    for place in (wanted, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108  # mkdtemp makes a folder of our own in it
        if place and len(os.fsencode(place)) <= MAX_FOLDER and os.access(place, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    raise ConfigError(
        f"Ray's sockets need a temporary folder with a path of at most {MAX_FOLDER} bytes, and "
        f"{wanted} has {len(os.fsencode(wanted))}",
        remedy="set TMPDIR to a folder with a shorter path",
    )


def environment(folder: Path, *, auth: str) -> dict[str, str]:
    """What a Ray below this folder sees on top of our own environment."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    # Ray asks 169.254.169.254 and metadata.google.internal which cloud this is, also with usage
    # statistics and dashboard off, unless a file in the home folder says how it was launched.
    (home / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="ascii")
    variables = quiet.SWITCHES | {
        "HOME": str(home),  # a user without one has one, and nobody's is written to
        "TMPDIR": str(folder),  # what a killed replica leaves goes with the session
        # Ray turns 127.0.0.1 into the machine's outer address unless told so by this name.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A dead raylet is known after 5 s, not 15; a slow one still has 10 s for each check.
        "RAY_health_check_period_ms": "1000",
    }
    if "USER" not in os.environ and "LOGNAME" not in os.environ:
        variables["USER"] = f"uid{os.getuid()}"  # Ray asks for a name, and not every uid has one
    if site.ENABLE_USER_SITE and site.USER_BASE:
        variables["PYTHONUSERBASE"] = site.USER_BASE  # packages installed below the real home
    if auth == "token":
        variables["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return variables
