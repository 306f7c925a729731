"""One MQTT topic, listened to at quality of service 0, by paho-mqtt (the ``[mqtt]`` extra)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from setsuden.energy.protocols.numbers import MAX_BYTES
from setsuden.energy.protocols.web import tls
from setsuden.schemas.errors import MissingExtraError

try:
    from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, error_string
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
except ImportError as error:
    raise MissingExtraError(
        "a plug that speaks MQTT needs paho-mqtt", remedy="pip install 'setsuden[mqtt]'"
    ) from error

KEEPALIVE_SECONDS = 30
"""We speak up as often, and a broker that leaves a ping unanswered for as long is gone."""
CONNECT_SECONDS = 5.0
_STEP_SECONDS = 0.2
"""How soon a listener notices that it should stop."""


@dataclass(frozen=True, slots=True)
class Topic:
    """``mqtt://user:password@host:1883/a/topic``, taken apart."""

    host: str
    port: int
    name: str
    user: str | None = None
    password: str | None = None
    secure: bool = False

    @classmethod
    def of(cls, url: str) -> Topic:
        """Raises ValueError for no topic, or for a pattern instead of one."""
        parts = urlsplit(url)
        name = unquote(parts.path.removeprefix("/"))
        if not name or not parts.hostname:
            raise ValueError("the address names no topic: mqtt://host:1883/topic")
        if set(name) & set("+#\0"):
            raise ValueError("the topic is a pattern: one meter has one topic")
        secure = parts.scheme == "mqtts"
        return cls(
            parts.hostname,
            parts.port or (8883 if secure else 1883),
            name,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
            secure,
        )


def listen(topic: Topic, heard: Callable[[bytes], None], stop: threading.Event) -> None:
    """Call ``heard`` with every payload until the event is set; raises OSError when cut off.

    Retained messages are skipped: the broker keeps them for days and nothing in them tells when
    they were measured.
    """
    listener = _Listener(topic, heard)
    try:
        listener.connect(topic.host, topic.port, KEEPALIVE_SECONDS)
        _follow(listener, stop)
    except OSError:
        raise
    except Exception as error:  # what paho raises for a broken packet depends on the packet
        raise OSError(f"the broker sent a broken message: {error}") from error
    finally:
        listener.disconnect()
        listener.loop_misc()


def _follow(listener: _Listener, stop: threading.Event) -> None:
    deadline = time.monotonic() + CONNECT_SECONDS
    while not stop.is_set():
        code = listener.loop(_STEP_SECONDS)
        if listener.refusal:
            raise OSError(listener.refusal)
        if not listener.welcomed and (code or time.monotonic() > deadline):
            raise OSError("no MQTT broker answers there")
        if code:
            raise OSError(error_string(code))


class _Listener(Client):
    """A client that subscribes when it is let in and keeps why it was not."""

    def __init__(self, topic: Topic, heard: Callable[[bytes], None]) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.refusal = ""
        self.welcomed = False
        self._topic, self._heard = topic.name, heard
        self.connect_timeout = CONNECT_SECONDS
        if topic.user is not None:
            self.username_pw_set(topic.user, topic.password)
        if topic.secure:
            self.tls_set_context(tls())
        self.on_connect, self.on_subscribe = self._connected, self._subscribed
        self.on_message = self._received

    def _connected(
        self, _: Client, __: object, ___: ConnectFlags, code: ReasonCode, ____: Properties | None
    ) -> None:
        self.welcomed = True
        if code.is_failure:
            self.refusal = f"the broker refuses us: {code}"
        else:
            self.subscribe(self._topic, qos=0)

    def _subscribed(
        self, _: Client, __: object, ___: int, codes: list[ReasonCode], ____: Properties | None
    ) -> None:
        if any(code.is_failure for code in codes):
            self.refusal = "the broker does not let us read this topic"

    def _received(self, _: Client, __: object, message: MQTTMessage) -> None:
        if not message.retain:
            self._heard(bytes(message.payload))

    def _sock_recv(self, bufsize: int) -> bytes:
        """Paho asks for all that is left of a packet, and would take 256 MiB of it."""
        if bufsize > MAX_BYTES:
            raise ValueError(f"longer than {MAX_BYTES} bytes")
        return super()._sock_recv(bufsize)
