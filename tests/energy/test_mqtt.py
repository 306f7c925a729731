"""A plug heard over MQTT: a real broker, a hostile one, and what is no broker."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import publish
from tests.support.devices import SteppedClock, has_problem, has_value, until
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy.domain import Candidate
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions, PlugOptions
from setsuden.energy.protocols import mqtt
from setsuden.energy.protocols.numbers import MAX_BYTES
from setsuden.energy.sensors import plug
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

MQTT_ACCOUNTS = """\
accounts { APP: { jetstream: enabled, users: [ { user: "a user", password: "p@ss" } ] } }
"""


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def plugged(clock: SteppedClock | None = None, **options: object) -> Candidate:
    host = Host(clock=clock or SteppedClock())
    found = PlugOptions.model_validate({"kind": "mqtt", **options})
    return plug.probe(EnergyOptions(plug=found), host)


class Broker(LocalBroker):
    """nats-server, which speaks MQTT 3.1.1 too."""

    def __init__(self, folder: Path) -> None:
        self.mqtt_port = free_port()
        super().__init__(
            folder,
            extra=f"mqtt {{ host: 127.0.0.1, port: {self.mqtt_port} }}",
            accounts=MQTT_ACCOUNTS,
        )

    def address(self, topic: str, login: str = "a%20user:p%40ss@") -> str:
        return f"mqtt://{login}127.0.0.1:{self.mqtt_port}/{topic}"

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """As the plug does; returns when the broker has it."""
        publish.single(
            topic,
            payload,
            qos=1,
            retain=retain,
            hostname="127.0.0.1",
            port=self.mqtt_port,
            auth={"username": "a user", "password": "p@ss"},
        )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


def test_a_plug_is_heard_over_mqtt(broker: Broker, clock: SteppedClock) -> None:
    url = broker.address("tele/plug-1/SENSOR")
    sensor = opened(plugged(clock, url=url, field="ENERGY.Power", seconds=10))

    def published(reading: object) -> bool:
        broker.publish("tele/plug-1/SENSOR", '{"ENERGY":{"Power":42}}')
        return has_value(sensor.read()[0])

    until(sensor, published)
    assert sensor.read() == [("plug", clock.now_ns, 42.0, None)]
    clock.passes(31)
    until(sensor, has_problem("nothing new comes", "31.0 s old"))
    broker.publish("tele/plug-1/SENSOR", "offline")
    until(sensor, has_problem("no JSON"))
    broker.publish("tele/plug-1/SENSOR", '{"ENERGY":{"Power":43}}')
    until(sensor, has_value)
    sensor.close()


def test_a_retained_message_is_no_measurement(broker: Broker, clock: SteppedClock) -> None:
    broker.publish("plug", "99", retain=True)
    heard: list[bytes] = []
    stop = threading.Event()
    topic = mqtt.Topic.of(broker.address("plug"))
    thread = threading.Thread(target=mqtt.listen, args=(topic, heard.append, stop))
    thread.start()
    for _ in range(500):
        broker.publish("plug", "1")
        if heard:
            break
    stop.set()
    thread.join()
    assert set(heard) == {b"1"}


def test_a_broker_that_dies_is_reported_and_found_again(
    broker: Broker, clock: SteppedClock
) -> None:
    sensor = opened(plugged(clock, url=broker.address("plug")))

    def published(reading: object) -> bool:
        broker.publish("plug", "1")
        return has_value(sensor.read()[0])

    until(sensor, published)
    broker.kill()
    clock.passes(4)
    until(sensor, has_problem("MQTT", "4.0 s old"))
    broker.start()
    clock.turn()
    until(sensor, published)
    sensor.close()


@pytest.mark.parametrize("login", ["a%20user:wrong@", ""])
def test_a_broker_that_refuses_us_is_reported(broker: Broker, login: str) -> None:
    sensor = opened(plugged(url=broker.address("plug", login)))
    until(sensor, has_problem("MQTT", "refuses us"))
    sensor.close()


def test_something_that_speaks_no_mqtt_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        sensor = opened(plugged(url=f"mqtt://127.0.0.1:{port}/plug"))
        connection, _ = server.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 4)
        until(sensor, has_problem("no MQTT broker"))
        connection.close()
        sensor.close()


def test_an_address_is_taken_apart() -> None:
    assert mqtt.Topic.of("mqtts://me:p%40ss@host/a%20b/c") == mqtt.Topic(
        "host", 8883, "a b/c", "me", "p@ss", secure=True
    )
    assert mqtt.Topic.of("mqtt://host/a") == mqtt.Topic("host", 1883, "a")


@pytest.mark.parametrize("topic", ["", "plugs/+/power", "plugs/%23"])
def test_a_pattern_is_no_topic_of_one_meter(topic: str) -> None:
    candidate = plugged(url=f"mqtt://127.0.0.1/{topic}")
    assert_kept(candidate)
    assert not candidate.available


class HostileBroker:
    """Accepts one listener, sends it these bytes after its welcome, and hangs up."""

    def __init__(self, data: bytes) -> None:
        self.heard: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, args=(data,))

    def listened_to(self) -> str:
        """What the listener says of it; it must end by itself."""
        topic = mqtt.Topic("127.0.0.1", self._server.getsockname()[1], "plug")
        self._thread.start()
        with pytest.raises(OSError, match=r"(?s).") as raised:
            mqtt.listen(topic, self.heard.append, threading.Event())
        self._thread.join()
        self._server.close()
        return str(raised.value)

    def _serve(self, data: bytes) -> None:
        connection, _ = self._server.accept()
        with connection, suppress(OSError):
            connection.recv(1024)
            connection.sendall(b"\x20\x02\x00\x00" + data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1024):
                pass


@given(st.binary(max_size=64))
@settings(deadline=None, max_examples=50)
def test_whatever_a_hostile_broker_sends_is_an_error_of_ours(data: bytes) -> None:
    assert HostileBroker(data).listened_to()


@pytest.mark.parametrize("more", [0, 1])
def test_a_payload_is_bounded_before_it_is_received(more: int) -> None:
    length = MAX_BYTES + more
    digits = bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))
    packet = b"\x30" + digits + b"\x00\x04plug" + bytes(length - 6)
    broker = HostileBroker(packet)
    problem = broker.listened_to()
    assert (len(broker.heard), "longer than" in problem) == ((0, True) if more else (1, False))


def test_without_paho_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['paho'] = None\n"
        "from setsuden.energy.host.system import Host\n"
        "from setsuden.energy.options import EnergyOptions, PlugOptions\n"
        "from setsuden.energy.sensors import plug\n"
        "from setsuden.schemas.errors import MissingExtraError\n"
        "options = PlugOptions(kind='mqtt', url='mqtt://127.0.0.1/plug')\n"
        "try: plug.probe(EnergyOptions(plug=options), Host())\n"
        "except MissingExtraError as error: print(error.remedy)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "pip install 'setsuden[mqtt]'\n"
