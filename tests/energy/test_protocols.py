"""Plugs and controllers: real servers, real files, a real broker; and the Pi's power chip."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.devices import Device, SteppedClock, device, has_problem, has_value, until
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy.domain import Candidate, Domain, DomainKind
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.options import EnergyOptions, PlugOptions
from setsuden.energy.protocols.background import Newest, Value, judged
from setsuden.energy.protocols.numbers import MAX_BYTES, number_in
from setsuden.energy.sensors import plug
from setsuden.schemas.energy import Boundary, Source


@pytest.fixture
def meter() -> Iterator[Device]:
    with device() as found:
        found.says("12.5")
        yield found


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def plugged(
    clock: SteppedClock | None = None, root: Path = Path("/"), **options: object
) -> Candidate:
    host = Host(root=SysRoot(root), clock=clock or SteppedClock())
    return plug.probe(EnergyOptions(plug=PlugOptions.model_validate(options)), host)


# -- the newest value ---------------------------------------------------------------------------


def domain(seconds: float) -> Domain:
    return Domain(
        "d",
        "d",
        "cpu",
        DomainKind.COUNTER,
        Source.MEASURED,
        Boundary.HOST,
        1,
        interval_seconds=seconds,
    )


@given(
    moments=st.lists(st.integers(0, 10**12), max_size=20),
    later=st.integers(0, 10**12),
    seconds=st.floats(0.2, 60),
)
def test_a_reported_value_is_recent_and_moments_never_step_back(
    moments: list[int], later: int, seconds: float
) -> None:
    newest, told = Newest(), []
    for moment in moments:
        newest.put(Value(moment, 1.0))
        told.append(newest.value.at_ns if newest.value else 0)
    now_ns = max(moments, default=0) + later
    reading = judged(domain(seconds), newest, now_ns)
    assert told == sorted(told)
    assert (reading.value is None) == (not moments or later > 3e9 * seconds)
    assert (reading.value is None) == (reading.problem is not None)
    assert reading.at_ns == (now_ns if reading.value is None else max(moments))


# -- one number out of an answer ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("7", "", 7),
        (" 7.25\n", "", 7.25),
        ('{"StatusSNS":{"ENERGY":{"Power":61}}}', "StatusSNS.ENERGY.Power", 61),
        ('{"meters":[{"power":0.0},{"power":8.5}]}', "meters.1.power", 8.5),
        ('{"switch:0":{"apower":5.5}}', "switch:0.apower", 5.5),
        ('{"state":"12.75"}', "state", 12.75),
    ],
)
def test_the_number_is_found(text: str, field: str, expected: float) -> None:
    assert number_in(text, field) == expected


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("", "", "no JSON"),
        ("<html>", "", "no JSON"),
        ("[" * 50_000, "", "no JSON"),
        (" " * (MAX_BYTES + 1), "", "longer"),
        ("null", "", "no number"),
        ("true", "", "no number"),
        ("NaN", "", "no number"),
        ("1e999", "", "no number"),
        ("1" + "0" * 400, "", "no number"),
        ('"unavailable"', "", "no number"),
        ("-0.5", "", "negative"),
        ('{"a":{"b":1}}', "a", "no number"),
        ('{"a":{"b":1}}', "a.c", "no field 'a.c'"),
        ('{"a":[1]}', "a.1", "no field"),
        ('{"a":[1]}', "a.-1", "no field"),
    ],
)
def test_no_number_is_an_error_in_words_and_never_0(text: str, field: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        number_in(text, field)


@given(st.binary(max_size=200) | st.text(max_size=200), st.text("ab.0", max_size=6))
def test_nothing_but_a_value_error_comes_of_garbage(text: bytes | str, field: str) -> None:
    with suppress(ValueError):
        assert number_in(text, field) >= 0


# -- a plug over HTTP ---------------------------------------------------------------------------


def test_a_plug_keeps_the_contract(meter: Device) -> None:
    def grow() -> None:
        meter.says("13")

    assert_kept(plugged(kind="http", url=meter.url), advance=grow)
    assert_kept(plugged(kind="http", url=meter.url, quantity="joules"), advance=grow)
    assert_kept(plug.probe(EnergyOptions(), Host()))


@pytest.mark.parametrize(
    ("quantity", "joules"), [("joules", 2), ("watt_hours", 7200), ("kilowatt_hours", 7.2e6)]
)
def test_a_total_is_a_measured_counter_in_joules(
    meter: Device, quantity: str, joules: float
) -> None:
    meter.says("2")
    candidate = plugged(kind="http", url=meter.url, quantity=quantity, factor=1.02)
    (found,) = candidate.domains
    assert (found.kind, found.source, found.factor) == (DomainKind.COUNTER, Source.MEASURED, 1.02)
    sensor = opened(candidate)
    assert until(sensor, has_value).value == joules
    sensor.close()


def test_watts_of_a_moment_are_derived_joules_of_what_it_measures(meter: Device) -> None:
    (found,) = plugged(kind="http", url=meter.url, boundary="board_dc", seconds=2.0).domains
    assert (found.kind, found.source) == (DomainKind.INSTANT_POWER, Source.DERIVED)
    assert (found.boundary, found.interval_seconds) == (Boundary.BOARD_DC, 2.0)


def test_searching_asks_nobody(meter: Device) -> None:
    assert plugged(kind="http", url=meter.url).available
    assert not meter.asked


def test_a_value_is_repeated_until_it_is_too_old(meter: Device, clock: SteppedClock) -> None:
    sensor = opened(plugged(clock, kind="http", url=meter.url))
    first = until(sensor, has_value)
    meter.status = 500
    clock.turn()
    clock.passes(2.9)
    assert sensor.read() == [first]
    clock.passes(0.2)
    until(sensor, has_problem("status 500", "3.1 s old"))
    meter.status = 200
    meter.says("20")
    clock.turn()
    assert until(sensor, has_value) == ("plug", clock.now_ns, 20.0, None)
    sensor.close()


def test_reading_never_waits_for_a_plug_that_hangs(meter: Device) -> None:
    meter.go.clear()
    sensor = opened(plugged(kind="http", url=meter.url))
    began = time.monotonic()
    assert sensor.read()[0].problem == "no answer yet"
    assert time.monotonic() - began < 1.5
    until(sensor, has_problem("no answer within 2 s"))
    sensor.close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, "1", "status 500"),
        (401, "1", "refuses user and password"),
        (200, "", "no JSON"),
        (200, "null", "no number"),
        (200, "x" * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_an_invalid_answer_is_reported(meter: Device, status: int, body: str, words: str) -> None:
    meter.status = status
    meter.says(body)
    sensor = opened(plugged(kind="http", url=meter.url))
    until(sensor, has_problem(words))
    sensor.close()


def test_a_redirect_is_not_followed_with_the_password(meter: Device) -> None:
    with device() as other:
        meter.status, meter.headers = 302, {"Location": other.url}
        sensor = opened(plugged(kind="http", url=meter.url.replace("//", "//me:secret@")))
        until(sensor, has_problem("redirect"))
        sensor.close()
        assert not other.asked


def test_secrets_of_the_address_are_used_and_never_shown(meter: Device) -> None:
    url = meter.url.replace("//", "//someone:s%40cret@") + "/cm?password=hidden&cmnd=Status%208"
    meter.status = 404
    candidate = plugged(kind="http", url=url)
    sensor = opened(candidate)
    problem = until(sensor, has_problem("404")).problem or ""
    sensor.close()
    shown = f"{candidate} {problem}"
    assert not [part for part in ("someone", "s@cret", "s%40cret", "hidden") if part in shown]
    assert meter.asked[0] == ("/cm?password=hidden&cmnd=Status%208", "Basic c29tZW9uZTpzQGNyZXQ=")


def test_a_proxy_of_the_environment_is_not_asked(
    meter: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    sensor = opened(plugged(kind="http", url=meter.url))
    until(sensor, has_value)
    sensor.close()


def test_something_that_speaks_no_http_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sensor = opened(plugged(kind="http", url=f"http://127.0.0.1:{server.getsockname()[1]}"))
        connection, _ = server.accept()
        connection.sendall(b"hello\r\n\r\n")
        connection.close()
        until(sensor, has_problem("no HTTP answer"))
        sensor.close()


# -- a plug as a file ---------------------------------------------------------------------------


@pytest.fixture
def number(tmp_path: Path, clock: SteppedClock) -> Callable[[str], None]:
    def write(text: str) -> None:
        path = tmp_path / "watts"
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(clock.wall_ns(), clock.wall_ns()))

    return write


def test_a_file_keeps_the_contract(
    tmp_path: Path, clock: SteppedClock, number: Callable[[str], None]
) -> None:
    number("5.5")

    def vanish() -> None:
        (tmp_path / "watts").unlink()
        clock.passes(3.5)
        clock.turn()

    assert_kept(plugged(clock, tmp_path, kind="file", path="watts"), vanish=vanish)


def test_a_number_is_as_old_as_its_file(
    tmp_path: Path, clock: SteppedClock, number: Callable[[str], None]
) -> None:
    number("5.5")
    written_ns = clock.now_ns
    clock.passes(1)
    sensor = opened(plugged(clock, tmp_path, kind="file", path="watts"))
    assert until(sensor, has_value) == ("plug", written_ns, 5.5, None)
    clock.passes(2.5)
    clock.turn()  # it is read again, and nobody has written
    until(sensor, has_problem("nothing new", "3.5 s old"))
    number("6.5")
    clock.turn()
    assert until(sensor, has_value).value == 6.5
    sensor.close()


def test_a_file_from_the_future_is_from_now(
    tmp_path: Path, clock: SteppedClock, number: Callable[[str], None]
) -> None:
    clock.passes(5)
    number("5.5")
    clock.passes(-5)
    sensor = opened(plugged(clock, tmp_path, kind="file", path="watts"))
    assert until(sensor, has_value).at_ns == clock.now_ns
    sensor.close()


def test_a_missing_file_is_no_meter(tmp_path: Path) -> None:
    candidate = plugged(None, tmp_path, kind="file", path="watts")
    assert_kept(candidate)
    assert not candidate.available


def test_a_half_written_file_keeps_the_value_before(
    tmp_path: Path, clock: SteppedClock, number: Callable[[str], None]
) -> None:
    number("5.5")
    sensor = opened(plugged(clock, tmp_path, kind="file", path="watts"))
    first = until(sensor, has_value)
    number("")
    clock.turn()
    clock.passes(1)
    assert sensor.read() == [first]
    sensor.close()
