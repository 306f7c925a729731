"""A management controller over Redfish: a real server, with TLS, and shapes of real answers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.devices import Device, SteppedClock, device, has_problem, has_value, until
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy.domain import Candidate
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.options import EnergyOptions, RedfishOptions
from setsuden.energy.sensors import redfish


@pytest.fixture
def meter() -> Iterator[Device]:
    with device() as found:
        yield found


HP = """{"PowerConsumedWatts": 590, "PowerControl": [{"PowerConsumedWatts": 590, "PowerMetrics":
{"AverageConsumedWatts": 587, "IntervalInMin": 20, "MaxConsumedWatts": 746}}]}"""

PARTS = """{"PowerControl": [{"PhysicalContext": "CPU", "PowerConsumedWatts": 90},
{"Name": "System", "PowerConsumedWatts": 200}, {"Name": "Memory", "PowerConsumedWatts": 30}]}"""


def controlled(url: str, root: Path = Path("/"), sensor: str = "auto", **more: object) -> Candidate:
    options = RedfishOptions.model_validate({"url": url, **more})
    host = Host(root=SysRoot(root), clock=SteppedClock())
    return redfish.probe(EnergyOptions(redfish=options, sensor=sensor), host)


def test_a_controller_keeps_the_contract(meter: Device) -> None:
    meter.says(HP)
    assert_kept(controlled(f"{meter.url}/redfish/v1/Chassis/1/Power"))
    assert_kept(redfish.probe(EnergyOptions(), Host()))


def test_a_controller_is_asked_in_a_search_only_when_it_is_named(meter: Device) -> None:
    meter.says(HP)
    assert "not asked" in controlled(meter.url).reason
    assert not meter.asked
    reason = controlled(meter.url, sensor="redfish").reason
    assert "590 W" in reason
    assert "20 min" in reason
    meter.status = 503
    candidate = controlled(meter.url, sensor="redfish")
    assert candidate.available
    assert "503" in candidate.reason


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HP, (590, 20)),
        ('{"PowerControl":[{"PowerConsumedWatts":100.5}]}', (100.5, None)),
        (
            '{"PowerControl":[{"PowerConsumedWatts":148,"PowerMetrics":{"IntervalInMin":0.0833}}]}',
            (148, 0.0833),
        ),
        (  # parts of the machine beside the whole: summed they would count twice
            PARTS,
            (200, None),
        ),
        ('{"PowerControl":[{"PowerConsumedWatts":null},{"PowerConsumedWatts":7}]}', (7, None)),
        ('{"PowerWatts":{"Reading":374},"EnergykWh":{"Reading":1}}', (374, None)),
        (
            '{"PowerControl":[{"PowerConsumedWatts":5,"PowerMetrics":{"IntervalInMin":null}}]}',
            (5, None),
        ),
    ],
)
def test_the_watts_of_the_whole_machine_are_found(
    answer: str, expected: tuple[float, float | None]
) -> None:
    assert redfish.power(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "{}",
        '{"PowerControl":[]}',
        '{"PowerControl":[{"PowerMetrics":{"AverageConsumedWatts":148}}]}',
        '{"PowerControl":[{"PowerConsumedWatts":"much"}]}',
        '{"PowerControl":[{"PowerConsumedWatts":true}]}',
        '{"PowerControl":"none"}',
        '{"PowerWatts":{"Reading":null}}',
    ],
)
def test_a_controller_without_watts_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError, match=r"tells no|is no"):
        redfish.power(answer)


def test_user_and_password_are_sent(meter: Device, tmp_path: Path) -> None:
    meter.says(HP)
    (tmp_path / "secret").write_text("pass word\n", encoding="utf-8")
    candidate = controlled(meter.url, tmp_path, user="root", password_file="secret")  # noqa: S106  # a file's name
    sensor = opened(candidate)
    until(sensor, has_value)
    meter.status = 401
    sensor.close()
    assert meter.asked[0][1] == "Basic cm9vdDpwYXNzIHdvcmQ="
    assert not controlled(meter.url, tmp_path, password_file="none").available  # noqa: S106


def test_a_certificate_that_nobody_signed_needs_the_persons_word(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    pem = tmp_path / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=bmc", "-days", "2", "-keyout", str(pem), "-out", str(pem)]
    made = subprocess.run([*command[:-1], str(tmp_path / "crt")], capture_output=True, check=True)
    assert made.returncode == 0
    pem.write_bytes(pem.read_bytes() + (tmp_path / "crt").read_bytes())
    with device(pem) as meter:
        meter.says(HP)
        sensor = opened(controlled(meter.url))
        until(sensor, has_problem("CERTIFICATE_VERIFY_FAILED"))
        sensor.close()
        sensor = opened(controlled(meter.url, insecure=True))
        assert until(sensor, has_value).value == 590
        sensor.close()
