"""The relay: one meter that may read the sensor, others that ask it, over a real UNIX socket."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from tests.support.devices import SteppedClock
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading
from setsuden.energy.host.system import Clock, Host
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors import relay
from setsuden.energy.sensors.relay import MAX_CLIENTS, MAX_QUESTION_BYTES, RelayServer
from setsuden.schemas.energy import Boundary, Source

PACKAGE = Domain(
    "intel-rapl:0",
    "package-0",
    "cpu",
    DomainKind.COUNTER,
    Source.MEASURED,
    Boundary.CPU_PACKAGE,
    1.1,
    max_joules=262143.328850,
    max_watts=280.0,
    interval_seconds=1.0,
)
CORES = Domain(
    "intel-rapl:0:0",
    "core",
    "cpu",
    DomainKind.COUNTER,
    Source.MEASURED,
    Boundary.CPU_CORE,
    1.1,
    parent=PACKAGE.id,
    interval_seconds=2.0,
)
DOMAINS = (PACKAGE, CORES)


class Privileged:
    """A sensor whose readings the test decides."""

    domains: tuple[Domain, ...] = DOMAINS

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.reads = 0
        self.value: float | None = 100.0
        self.failing = False
        self.at_ns: int | None = None

    def read(self) -> list[Reading]:
        self.reads += 1
        if self.failing:
            raise RuntimeError("a driver that breaks its contract")
        at_ns = self.at_ns or self.clock.monotonic_ns()
        problem = None if self.value is not None else "EIO"
        return [Reading(domain.id, at_ns, self.value, problem) for domain in DOMAINS]

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def sensor(clock: SteppedClock) -> Privileged:
    return Privileged(clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meter.sock"


@pytest.fixture
def server(sensor: Privileged, path: Path) -> Iterator[RelayServer]:
    running = RelayServer(sensor, DOMAINS, (PACKAGE.id,), path, sensor.clock)
    running.start()
    yield running
    running.close()


def asked(path: Path, clock: Clock) -> Candidate:
    return relay.probe(EnergyOptions(relay=str(path)), Host(clock=clock))


def test_the_relay_keeps_the_contract(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    def advance() -> None:
        clock.passes(1)
        sensor.value = 105.0

    assert_kept(asked(path, clock), advance=advance, vanish=server.close)
    assert_kept(asked(path, clock))
    assert_kept(relay.probe(EnergyOptions(), Host()))


def test_all_of_a_domain_but_its_source_passes_through(
    server: RelayServer, path: Path, clock: SteppedClock
) -> None:
    candidate = asked(path, clock)
    expected = tuple(replace(domain, source=Source.RELAYED) for domain in DOMAINS)
    assert candidate.domains == expected
    assert candidate.primary == (PACKAGE.id,)


@pytest.mark.parametrize("source", [Source.TABLE_MODEL, Source.DECLARED, Source.CALIBRATED_MODEL])
def test_a_model_is_not_made_better_by_being_relayed(source: Source) -> None:
    assert relay.relayed(replace(PACKAGE, source=source)).source is source


def test_the_moment_of_a_reading_passes_through(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    sensor.at_ns = clock.now_ns - 7
    client = opened(asked(path, clock))
    assert client.read() == [Reading(d.id, clock.now_ns - 7, 100.0) for d in DOMAINS]
    client.close()


def test_a_failed_read_passes_through_as_a_problem(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    sensor.value = None
    client = opened(asked(path, clock))
    assert [(r.value, r.problem) for r in client.read()] == [(None, "EIO")] * 2
    client.close()


def test_the_sensor_is_read_once_an_interval_whoever_asks(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    clients = [opened(asked(path, clock)) for _ in range(5)]
    told = {tuple(client.read()) for client in clients for _ in range(3)}
    assert sensor.reads == len(told) == 1
    clock.passes(0.99)
    assert tuple(clients[0].read()) in told
    clock.passes(0.01)
    assert tuple(clients[0].read()) not in told
    assert sensor.reads == 2
    for client in clients:
        client.close()


def test_a_meter_that_dies_is_reported_and_found_again(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    client = opened(asked(path, clock))
    assert client.read()[0].value == 100.0
    server.close()
    for reading in client.read():
        assert reading.value is None
        assert "relay" in (reading.problem or "")
    again = RelayServer(sensor, DOMAINS, (PACKAGE.id,), path, clock)
    again.start()
    assert client.read()[0].value == 100.0
    client.close()
    again.close()


def test_a_meter_that_comes_back_as_another_is_not_believed(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    client = opened(asked(path, clock))
    server.close()
    other = replace(PACKAGE, factor=2.0)
    again = RelayServer(sensor, (other, CORES), (other.id,), path, clock)
    again.start()
    assert "other domains" in (client.read()[0].problem or "")
    assert "other domains" in (client.read()[0].problem or "")
    client.close()
    again.close()


def test_a_sensor_that_raises_does_not_end_the_meter(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    client = opened(asked(path, clock))
    sensor.failing = True
    for reading in client.read():
        assert reading.problem == "the sensor failed: RuntimeError"
    sensor.failing = False
    clock.passes(1)
    assert client.read()[0].value == 100.0
    client.close()


def test_a_clock_that_is_not_ours_is_reported(server: RelayServer, path: Path) -> None:
    theirs = SteppedClock()
    theirs.passes(1)
    client = opened(asked(path, theirs))
    assert "clock is not ours" in (client.read()[0].problem or "")
    client.close()


def test_owner_and_group_may_connect_whatever_the_umask(
    sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    for umask in (0o000, 0o077):
        before = os.umask(umask)
        try:
            running = RelayServer(sensor, DOMAINS, (PACKAGE.id,), path, clock)
            running.start()
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        running.close()
        assert not path.exists()


def test_a_second_meter_does_not_take_the_place_of_a_living_one(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    second = RelayServer(sensor, DOMAINS, (PACKAGE.id,), path, clock)
    with pytest.raises(OSError, match="another meter"):
        second.start()
    second.close()
    assert asked(path, clock).available


def test_the_socket_of_a_dead_meter_is_taken_over(
    sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    running = RelayServer(sensor, DOMAINS, (PACKAGE.id,), path, clock)
    running.start()
    assert asked(path, clock).available
    running.close()


def test_a_file_of_somebody_is_not_taken_over(
    sensor: Privileged, path: Path, clock: SteppedClock
) -> None:
    path.write_text("precious", encoding="utf-8")
    running = RelayServer(sensor, DOMAINS, (PACKAGE.id,), path, clock)
    with pytest.raises(OSError, match="no socket"):
        running.start()
    running.close()
    assert path.read_text(encoding="utf-8") == "precious"


# -- the protocol, from a stranger's side -------------------------------------------------------


def said(path: Path, words: bytes) -> bytes:
    """One answer, or nothing when the meter parts from us."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(str(path))
        stranger.sendall(words)
        answer = b""
        while not answer.endswith(b"\n"):
            try:
                data = stranger.recv(65_536)
            except ConnectionResetError:
                return b""
            if not data:
                return answer
            answer += data
        return answer


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (b"\n", b"no question"),
        (b"\xff\n", b"no question"),
        (b'{"v":1}\n', b"no question"),
        (b'{"v":2,"ask":"read"}\n', b"version 2 is not spoken"),
        (b'{"v":1,"ask":"write"}\n', b"neither"),
        (b'{"v":1,"ask":"read","later":true}\n', b'"readings":[['),
        (b'{"v":1,"ask":"domains"}\n', b'"primary":["intel-rapl:0"]'),
        (b"x" * (2 * MAX_QUESTION_BYTES), b""),
    ],
)
def test_every_line_has_an_answer_and_none_is_too_long(
    server: RelayServer, path: Path, clock: SteppedClock, question: bytes, words: bytes
) -> None:
    answer = said(path, question)
    assert words in answer
    assert bool(answer) == bool(words)
    assert asked(path, clock).available


def test_one_client_too_many_is_turned_away_and_the_others_stay(
    server: RelayServer, path: Path, clock: SteppedClock
) -> None:
    clients = [opened(asked(path, clock)) for _ in range(MAX_CLIENTS)]
    assert all(client.read()[0].value == 100.0 for client in clients)
    assert not asked(path, clock).available
    for client in clients:
        client.close()


# -- the client, from a bad meter's side --------------------------------------------------------


@pytest.fixture
def answering(path: Path) -> Iterator[Callable[[list[bytes]], None]]:
    """A meter that gives these answers, one to each connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    threads: list[threading.Thread] = []

    def serve(answers: list[bytes]) -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                try:
                    connection.sendall(answer)
                except OSError:
                    return  # it had enough of it
                connection.recv(1024)

    def start(answers: list[bytes]) -> None:
        threads.append(threading.Thread(target=serve, args=(answers,)))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"hello\n", "not understood"),
        (b"", "in time"),
        (b'{"v":1,"error":"go away"}\n', "refuses: go away"),
        (b'{"v":3,"domains":[],"zones":[]}\n', "version 3"),
        (b'{"v":1,"domains":[],"primary":[]}\n', "nothing that could be attributed"),
        (b'{"v":1,"domains":[],"primary":["x"]}\n', "nothing that could be attributed"),
        (b" " * 70_000, "too long"),
    ],
)
def test_an_invalid_answer_makes_it_unavailable(
    answering: Callable[[list[bytes]], None], path: Path, answer: bytes, words: str
) -> None:
    answering([answer])
    candidate = asked(path, Clock())
    assert_kept(candidate)
    assert words in candidate.reason


def test_a_missing_right_and_a_missing_meter_have_their_own_remedies(tmp_path: Path) -> None:
    assert "group" in relay.remedy(PermissionError())
    candidate = asked(tmp_path / "nothing.sock", Clock())
    assert_kept(candidate)
    assert "--serve" in candidate.remedy


@pytest.mark.parametrize("value", [-1.0, inf, nan])
def test_a_missing_value_is_never_reported(
    server: RelayServer, sensor: Privileged, path: Path, clock: SteppedClock, value: float
) -> None:
    sensor.value = value
    client = opened(asked(path, clock))
    assert [(r.value, r.problem) for r in client.read()] == [
        (None, "the sensor told no usable value")
    ] * 2
    client.close()
