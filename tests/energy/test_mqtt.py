"""A plug that is heard over MQTT: a real broker, the packets, and what is no broker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
        where = mqtt.Topic.of(self.address(topic))
        with socket.create_connection((where.host, where.port), timeout=10) as connection:
            connection.sendall(mqtt.connect_packet(where))
            assert connection.recv(4) == b"\x20\x02\x00\x00"
            body = mqtt.text(topic) + b"\x00\x01" + payload.encode()
            connection.sendall(mqtt.framed(0x33 if retain else 0x32, body))
            assert connection.recv(4) == b"\x40\x02\x00\x01"


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


def test_a_broker_that_dies_is_told_and_found_again(broker: Broker, clock: SteppedClock) -> None:
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


@pytest.mark.parametrize(
    ("login", "words"), [("a%20user:wrong@", "refuse|not let"), ("", "refuse|not let")]
)
def test_a_broker_that_refuses_us_is_told(broker: Broker, login: str, words: str) -> None:
    sensor = opened(plugged(url=broker.address("plug", login)))
    problem = until(sensor, has_problem("MQTT")).problem or ""
    sensor.close()
    assert [word for word in words.split("|") if word in problem], problem


def test_something_that_speaks_no_mqtt_is_told() -> None:
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


@given(st.integers(0x10, 0xFF), st.binary(max_size=MAX_BYTES), st.integers(0, 8))
def test_packets_survive_the_wire(kind: int, body: bytes, more: int) -> None:
    framed = mqtt.framed(kind, body)
    buffer = bytearray(framed[:-1])
    assert mqtt.unframed(buffer) is None
    buffer = bytearray(framed + bytes(more))
    assert mqtt.unframed(buffer) == (kind, body)
    assert len(buffer) == more


@given(st.binary(max_size=64))
def test_a_broken_packet_is_an_error_or_waits_for_more(data: bytes) -> None:
    buffer = bytearray(data)
    with suppress(OSError):
        packet = mqtt.unframed(buffer)
        if packet is not None:
            assert len(mqtt.payload(packet)) <= len(data)
