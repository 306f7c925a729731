"""Encryption on every way the link takes, and nobody reached who was not configured."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.support.certificates import FUTURE, PAST, Authority, server_tls
from tests.support.hostile import Conversation, HostileServer, info, trap
from tests.support.proxy import Proxy

from setsuden.link import JetStream, Link, LinkOptions, LinkState
from setsuden.link.durability import read_varz
from setsuden.schemas import streams
from setsuden.schemas.errors import (
    ForbiddenError,
    LinkError,
    NotDurableError,
    UnavailableError,
)
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

LOCAL = ("localhost", "127.0.0.1")


@asynccontextmanager
async def linked(options: LinkOptions) -> AsyncIterator[Link]:
    """A link that was started, whatever came of it."""
    link = Link(options, "test")
    link.start()
    yield link
    await link.close()


def options_for(broker: LocalBroker, authority: Authority | None, **more: object) -> LinkOptions:
    """A link that asks for encryption, and trusts this authority."""
    files = {} if authority is None else {"tls_ca_file": str(authority.file)}
    known: dict[str, object] = {
        "urls": (broker.url.replace("nats://", "tls://"),),
        "monitor_url": broker.monitor_url,
        "reconnect_max_seconds": 0.2,
    }
    return LinkOptions.model_validate(known | files | more)


def encrypted(folder: Path, authority: Authority, *more: str, name: str = "server") -> LocalBroker:
    """A broker with a certificate for this machine's own names, not started yet."""
    certificate, key = authority.issue(name, *LOCAL)
    return LocalBroker(folder / "nats", extra=server_tls(certificate, key, *more))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def tls_version(link: Link) -> str:
    assert link._connection is not None
    writer = link._connection._client.writer
    assert writer is not None
    return str(writer.get_extra_info("ssl_object").version())


# -- the server's certificate ---------------------------------------------------------------------


async def test_a_link_over_tls_stores_and_speaks_the_newest_version(
    tmp_path: Path, authority: Authority
) -> None:
    with encrypted(tmp_path, authority) as broker:
        async with linked(options_for(broker, authority)) as link:
            await link.wait_up(10)
            assert tls_version(link) == "TLSv1.3"
            jetstream = JetStream(link)
            await jetstream.start()
            await jetstream.apply_stream(streams.events(streams.StreamBounds()))
            assert (await link.store("evt.p.d", bytes(100_000))).sequence == 1
            assert link.wire().bytes_sent > 100_000


async def test_a_server_that_demands_encryption_gets_it_without_being_asked_for(
    tmp_path: Path, authority: Authority
) -> None:
    """``nats://``, and an authority that is not the system's."""
    with encrypted(tmp_path, authority) as broker:
        async with linked(broker.options) as link:
            with pytest.raises(ForbiddenError, match=r"not trusted.*set nats\.tls_ca_file"):
                await link.wait_up(10, refused_ends=True)


@pytest.mark.parametrize(
    ("valid", "names", "told"),
    [
        (PAST, LOCAL, r"expired.*renew the server's certificate, or correct this machine's clock"),
        (FUTURE, LOCAL, r"not yet valid.*clock"),
        (None, ("elsewhere.example",), r"connect by a name or address that stands in"),
        (None, ("localhost",), r"connect by a name or address that stands in"),
    ],
)
async def test_a_certificate_that_is_not_right_is_refused_with_the_remedy(
    tmp_path: Path,
    authority: Authority,
    valid: tuple[datetime, datetime] | None,
    names: tuple[str, ...],
    told: str,
) -> None:
    certificate, key = authority.issue("server", *names, valid=valid)
    with LocalBroker(tmp_path / "nats", extra=server_tls(certificate, key)) as broker:
        async with linked(options_for(broker, authority)) as link:
            with pytest.raises(ForbiddenError, match=told) as caught:
                await link.wait_up(10, refused_ends=True)
            assert f"127.0.0.1:{broker.port}" in caught.value.message
            assert link.state is LinkState.REFUSED


async def test_a_certificate_of_a_foreign_authority_is_refused(
    tmp_path: Path, authority: Authority
) -> None:
    foreign = Authority(tmp_path / "foreign", "foreign")
    with encrypted(tmp_path, foreign) as broker:
        async with linked(options_for(broker, authority)) as link:
            with pytest.raises(ForbiddenError, match=r"ca\.pem must hold the authority"):
                await link.wait_up(10, refused_ends=True)
        async with linked(options_for(broker, None)) as link:
            with pytest.raises(ForbiddenError, match=r"set nats\.tls_ca_file"):
                await link.wait_up(10, refused_ends=True)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused(authority: Authority) -> None:
    certificate, key = authority.issue("server", *LOCAL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with HostileServer(greet_and_serve, context) as server:
        options = LinkOptions(
            urls=(server.url,),
            durability="relaxed",
            tls_first=True,
            tls_ca_file=str(authority.file),
        )
        async with linked(options) as link:
            with pytest.raises(LinkError, match=r"1\.2 or newer"):
                await link.wait_up(3, refused_ends=True)


async def greet_and_serve(conversation: Conversation) -> None:
    await conversation.send(info())
    await conversation.serve()


# -- a server that offers no encryption -----------------------------------------------------------


@pytest.mark.parametrize("asked", ["scheme", "authority"])
async def test_stripped_encryption_is_refused_before_anything_is_sent(
    authority: Authority, asked: str
) -> None:
    """Somebody between us and the server took ``tls_required`` out of its greeting."""
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def greet(conversation: Conversation) -> None:
        await conversation.send(info(auth_required=True))
        received.put_nowait(await conversation.rest())

    async with HostileServer(greet) as server:
        place = f"anna:secret@127.0.0.1:{server.port}"
        options = (
            LinkOptions(urls=(f"tls://{place}",), durability="relaxed")
            if asked == "scheme"
            else LinkOptions(
                urls=(f"nats://{place}",), durability="relaxed", tls_ca_file=str(authority.file)
            )
        )
        async with linked(options) as link:
            with pytest.raises(ForbiddenError, match="offers no encryption"):
                await link.wait_up(5, refused_ends=True)
        assert await asyncio.wait_for(received.get(), 5) == b""


async def test_a_server_without_tls_is_refused_by_name(broker: LocalBroker) -> None:
    async with linked(options_for(broker, None)) as link:
        with pytest.raises(ForbiddenError, match=f"127.0.0.1:{broker.port} offers no encryption"):
            await link.wait_up(5, refused_ends=True)


async def test_a_server_that_leaves_it_open_is_spoken_to_encrypted(
    tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("server", *LOCAL)
    extra = server_tls(certificate, key) + "allow_non_tls: true\n"
    with LocalBroker(tmp_path / "nats", extra=extra) as broker:
        async with linked(options_for(broker, authority)) as link:
            await link.wait_up(10)
            assert tls_version(link) == "TLSv1.3"


# -- encryption before the greeting ---------------------------------------------------------------


async def test_a_server_with_handshake_first_is_reached_with_tls_first(
    tmp_path: Path, authority: Authority
) -> None:
    with encrypted(tmp_path, authority, "handshake_first: true") as broker:
        async with linked(options_for(broker, authority, tls_first=True)) as link:
            await link.wait_up(10)


async def test_without_tls_first_such_a_server_is_told_apart_in_bounded_time(
    tmp_path: Path, authority: Authority
) -> None:
    with encrypted(tmp_path, authority, "handshake_first: true") as broker:
        options = options_for(broker, authority, connect_timeout_seconds=1.0)
        async with linked(options) as link:
            with pytest.raises(UnavailableError, match="tls_first set as its handshake_first"):
                await link.wait_up(1.5)


async def test_tls_first_with_a_server_that_greets_first_is_told(
    tmp_path: Path, authority: Authority
) -> None:
    """Its greeting is garbage to TLS, or is missed and waited for."""
    with encrypted(tmp_path, authority) as broker:
        options = options_for(broker, authority, tls_first=True, connect_timeout_seconds=0.5)
        async with linked(options) as link:
            with pytest.raises(UnavailableError, match="tls_first"):
                await link.wait_up(2)


# -- client certificates --------------------------------------------------------------------------


def verifying(folder: Path, authority: Authority, trusted: Path) -> LocalBroker:
    return encrypted(folder, authority, f'ca_file: "{trusted}"', "verify: true")


async def test_a_client_certificate_lets_us_in(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("device-1")
    with verifying(tmp_path, authority, authority.file) as broker:
        files = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
        async with linked(options_for(broker, authority, **files)) as link:
            await link.wait_up(10)
            assert tls_version(link) == "TLSv1.3"


async def test_without_a_client_certificate_the_options_are_named(
    tmp_path: Path, authority: Authority
) -> None:
    with verifying(tmp_path, authority, authority.file) as broker:
        async with linked(options_for(broker, authority)) as link:
            with pytest.raises(
                ForbiddenError, match=r"demands a client certificate.*tls_cert_file"
            ):
                await link.wait_up(5, refused_ends=True)


@pytest.mark.parametrize("wrong", ["foreign", "expired"])
async def test_a_client_certificate_that_is_not_right_is_refused_and_a_renewed_one_taken_up(
    tmp_path: Path, authority: Authority, wrong: str
) -> None:
    """TLS 1.3 tells a client only after the handshake that its certificate was refused."""
    issuer = Authority(tmp_path / "foreign", "foreign") if wrong == "foreign" else authority
    valid = PAST if wrong == "expired" else None
    certificate, key = issuer.issue("device-1", valid=valid)
    with verifying(tmp_path, authority, authority.file) as broker:
        files = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
        async with linked(options_for(broker, authority, **files)) as link:
            with pytest.raises(LinkError, match="tls_cert_file must be valid now"):
                await link.wait_up(5, refused_ends=True)
            for renewed, old in zip(authority.issue("renewed"), (certificate, key), strict=True):
                renewed.replace(old)
            await link.wait_up(10)


async def test_certificates_are_rotated_on_both_sides_while_running(
    tmp_path: Path, authority: Authority
) -> None:
    """Another authority for everything; the process is never restarted."""
    certificate, key = authority.issue("device-1")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
    states: asyncio.Queue[LinkState] = asyncio.Queue()
    with verifying(tmp_path, authority, trusted) as broker:
        async with linked(options_for(broker, authority, **files)) as link:
            await link.wait_up(10)
            link.listen(states.put_nowait)
            await asyncio.to_thread(broker.stop)
            other = Authority(tmp_path / "other", "other")
            for new, old in zip(
                other.issue("server", *LOCAL),
                (authority.folder / "server.pem", authority.folder / "server.key"),
                strict=True,
            ):
                new.replace(old)
            trusted.write_bytes(other.file.read_bytes())
            await asyncio.to_thread(broker.start)
            while await asyncio.wait_for(states.get(), 10) is not LinkState.REFUSED:
                pass
            for new, old in zip(
                (other.file, *other.issue("device-1")),
                (authority.file, certificate, key),
                strict=True,
            ):
                new.replace(old)
            await link.wait_up(15)


LOADS = """
import sys
from setsuden.link import LinkOptions
from setsuden.link.credentials import tls_context
tls_context(LinkOptions(tls_cert_file=sys.argv[1], tls_key_file=sys.argv[2]))
"""


async def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    broker: LocalBroker, authority: Authority
) -> None:
    """OpenSSL would ask on the terminal, where there is one, and wait."""
    certificate, key = authority.issue("device-1")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
    async with linked(options_for(broker, authority, **files)) as link:
        with pytest.raises(ForbiddenError, match="without a passphrase"):
            await link.wait_up(5, refused_ends=True)
    said = await asyncio.to_thread(on_a_terminal, LOADS, str(certificate), str(key))
    assert b"without a passphrase" in said
    assert b"Enter" not in said


def on_a_terminal(program: str, *arguments: str) -> bytes:
    """What a process says that has a terminal of its own; fails when it waits for input."""
    ours, its = os.openpty()
    command = [sys.executable, "-c", program, *arguments]
    # The first terminal that the leader of a session opens becomes its own.
    opening = ["sh", "-c", 'exec <"$0" >"$0" 2>&1; exec "$@"', os.ttyname(its), *command]
    process = subprocess.Popen(opening, start_new_session=True)
    try:
        process.wait(20)
        return os.read(ours, 1 << 16)
    finally:
        process.kill()
        os.close(ours)
        os.close(its)


def spoil(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("option", "content", "told"),
    [
        ("tls_ca_file", b"", "no certificates"),
        ("tls_ca_file", b"\xff" * 99, "no certificates"),
        ("tls_ca_file", None, "No such file"),
        ("tls_cert_file", b"-----BEGIN CERTIFICATE-----\n", "must be a pair"),
        ("tls_cert_file", None, "No such file"),
        ("tls_key_file", None, "No such file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_with_its_option(
    broker: LocalBroker, authority: Authority, option: str, content: bytes | None, told: str
) -> None:
    certificate, key = authority.issue("device-1")
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
    options = options_for(broker, authority, **files)
    file = str(getattr(options, option))
    spoil(Path(file), content)
    async with linked(options) as link:
        with pytest.raises(ForbiddenError, match=rf"nats\.{option} {file}.*{told}"):
            await link.wait_up(5, refused_ends=True)


# -- bounded time and clean ends ------------------------------------------------------------------


async def silent(conversation: Conversation) -> None:
    await conversation.rest()


async def greets_and_is_silent(conversation: Conversation) -> None:
    await conversation.send(info(tls_required=True))
    await conversation.rest()


async def answers_the_handshake_with_text(conversation: Conversation) -> None:
    await conversation.send(info(tls_required=True))
    await conversation.reader.read(1)
    await conversation.send(b"PONG\r\n" * 100)
    await conversation.rest()


@pytest.mark.parametrize("script", [silent, greets_and_is_silent, answers_the_handshake_with_text])
@pytest.mark.parametrize("tls_first", [False, True])
async def test_a_handshake_that_does_not_end_is_given_up_in_time_and_leaves_nothing_behind(
    script: object, tls_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    async with HostileServer(script) as server:  # type: ignore[arg-type]  # one of those above
        options = LinkOptions(
            urls=(server.url.replace("nats", "tls"),),
            durability="relaxed",
            connect_timeout_seconds=0.5,
            tls_first=tls_first,
        )
        async with linked(options) as link:
            with pytest.raises(UnavailableError):
                await link.wait_up(1.2)
            assert server.accepted > 1
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("steps", [*range(0, 120, 8), *range(120, 800, 60)])
async def test_closing_while_it_encrypts_leaves_no_task(
    authority: Authority, steps: int, tls_broker: LocalBroker, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    link = Link(options_for(tls_broker, authority), "test")
    link.start()
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await link.close()
    assert asyncio.all_tasks() <= before
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def tls_broker(tmp_path: Path, authority: Authority) -> object:
    with encrypted(tmp_path, authority) as running:
        yield running


async def test_a_silent_network_is_noticed_under_tls_as_fast_as_without(
    tls_broker: LocalBroker, authority: Authority
) -> None:
    """At its end asyncio waits 30 s for TLS; a connection that is given up must not."""
    async with Proxy(tls_broker.port) as proxy:
        options = options_for(
            tls_broker,
            authority,
            urls=(f"tls://127.0.0.1:{proxy.port}",),
            ping_interval_seconds=0.3,
            ping_timeout_seconds=0.5,
            connect_timeout_seconds=1.0,
        )
        states: asyncio.Queue[LinkState] = asyncio.Queue()
        async with linked(options) as link:
            await link.wait_up(10)
            link.listen(states.put_nowait)
            proxy.blackhole()
            assert await asyncio.wait_for(states.get(), 2) is LinkState.DOWN
            proxy.heal()
            await link.wait_up(10)


# -- monitoring -----------------------------------------------------------------------------------


async def test_monitoring_over_https_is_checked_against_the_same_authority(
    tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("server", *LOCAL)
    port = free_port()
    extra = server_tls(certificate, key) + f'https: "127.0.0.1:{port}"\n'
    # nats-server has one monitoring port, and this one is encrypted: health is asked of it.
    broker = LocalBroker(tmp_path / "nats", extra=extra)
    config = broker.folder / "nats.conf"
    config.write_text(config.read_text().replace(f'http: "127.0.0.1:{broker.monitor_port}"', ""))
    async with https_only(broker):
        monitor = f"https://127.0.0.1:{port}"
        async with linked(options_for(broker, authority, monitor_url=monitor)) as link:
            await link.wait_up(20)
        foreign = Authority(tmp_path / "foreign", "foreign")
        with pytest.raises(NotDurableError, match=r"https://127.*issuer|self-signed"):
            await read_varz(LinkOptions(monitor_url=monitor, tls_ca_file=str(foreign.file)))


@asynccontextmanager
async def https_only(broker: LocalBroker) -> AsyncIterator[None]:
    """The broker runs; what waits for its plain health port is answered by a server of ours."""
    serving = await asyncio.start_server(_healthy, "127.0.0.1", broker.monitor_port)
    async with serving:
        await asyncio.to_thread(broker.start)
        try:
            yield
        finally:
            await asyncio.to_thread(broker.stop)


async def _healthy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    writer.close()


def monitor(port: int, **more: object) -> LinkOptions:
    return LinkOptions.model_validate({"monitor_url": f"http://127.0.0.1:{port}"} | more)


async def test_a_redirect_of_monitoring_is_not_followed() -> None:
    async with HostileServer(trap) as elsewhere:

        async def redirect(conversation: Conversation) -> None:
            place = f"http://127.0.0.1:{elsewhere.port}/varz"
            await conversation.send(f"HTTP/1.1 302 Found\r\nLocation: {place}\r\n\r\n".encode())

        async with HostileServer(redirect) as server:
            with pytest.raises(NotDurableError, match="status 302"):
                await read_varz(monitor(server.port))
        assert elsewhere.accepted == 0


async def drips(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await conversation.send(b" ")
        await asyncio.sleep(0.01)


async def floods(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await conversation.send(b" " * 65_536)


async def floods_headers(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await conversation.send(b"X: y\r\n" * 1000)


async def nests(conversation: Conversation) -> None:
    await conversation.reader.readuntil(b"\r\n\r\n")
    await conversation.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 90_000)


async def lies(conversation: Conversation) -> None:
    await conversation.reader.readuntil(b"\r\n\r\n")
    await conversation.send(b'HTTP/1.1 200 OK\r\n\r\n{"jetstream":{"config":{"sync_always":1}}}')


async def greets(conversation: Conversation) -> None:
    await conversation.send(info())
    await conversation.rest()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (silent, "no answer in time"),
        (drips, "no answer in time"),
        (floods, "over 1048576 bytes"),
        (floods_headers, "headers are over"),
        (nests, "nested too deeply"),
        (greets, "no HTTP server"),
    ],
)
async def test_monitoring_that_answers_without_end_or_sense_is_given_up(
    script: object, told: str
) -> None:
    async with HostileServer(script) as server:  # type: ignore[arg-type]  # one of those above
        with pytest.raises(NotDurableError, match=told):
            async with asyncio.timeout(5):
                await read_varz(monitor(server.port, connect_timeout_seconds=1.0))


async def test_only_true_is_true(broker: LocalBroker) -> None:
    async with HostileServer(lies) as server:
        options = LinkOptions(urls=(broker.url,), monitor_url=f"http://127.0.0.1:{server.port}")
        async with linked(options) as link:
            with pytest.raises(NotDurableError, match="acknowledges before its disk"):
                await link.wait_up(5, refused_ends=True)


# -- nobody else is reached -----------------------------------------------------------------------


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY")


async def test_proxies_of_the_environment_are_not_used(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with encrypted(tmp_path, authority) as broker:
        async with HostileServer(trap) as proxy:
            for name in (*PROXIES, *(name.lower() for name in PROXIES)):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("NO_PROXY", "")
            monkeypatch.setenv("no_proxy", "")
            async with linked(options_for(broker, authority)) as link:
                await link.wait_up(10)
            assert proxy.accepted == 0


async def test_servers_that_a_broker_names_are_never_contacted() -> None:
    """Neither those of its greeting, nor those of later INFO lines, when it is gone."""
    async with HostileServer(trap) as elsewhere:
        named = [f"127.0.0.1:{elsewhere.port}"]

        async def name_and_go(conversation: Conversation) -> None:
            await conversation.send(info(connect_urls=named, cluster="c"))
            await conversation.serve(pings=2)
            await conversation.send(info(connect_urls=named, ldm=True))

        async with HostileServer(name_and_go) as server:
            options = LinkOptions(
                urls=(server.url,), durability="relaxed", reconnect_max_seconds=0.1
            )
            async with linked(options) as link:
                while link.connections < 4:
                    await asyncio.wait_for(server.connected.wait(), 10)
                    server.connected.clear()
        assert elsewhere.accepted == 0


async def test_ipv6_addresses_are_reached(broker: LocalBroker) -> None:
    async with Proxy(broker.port, "::1") as proxy, Proxy(broker.monitor_port, "::1") as watching:
        options = LinkOptions(
            urls=(proxy.url,), monitor_url=watching.url.replace("nats://", "http://")
        )
        async with linked(options) as link:
            await link.wait_up(10)


async def test_an_ipv6_address_stands_in_the_certificate_like_a_name(
    tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("server", "::1")
    with LocalBroker(tmp_path / "nats", extra=server_tls(certificate, key)) as broker:
        async with Proxy(broker.port, "::1") as proxy:
            url = proxy.url.replace("nats://", "tls://")
            async with linked(options_for(broker, authority, urls=(url,))) as link:
                await link.wait_up(10)
        async with linked(options_for(broker, authority)) as link:
            with pytest.raises(ForbiddenError, match="a name or address that stands in"):
                await link.wait_up(5, refused_ends=True)
