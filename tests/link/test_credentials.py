"""Logging in: `.creds` files, nkeys, passwords and addresses, against real servers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support import jwt

from setsuden.client import AsyncClient
from setsuden.link import JetStream, Link, LinkOptions, LinkState, redacted
from setsuden.link.address import Address
from setsuden.link.credentials import login_of, principal
from setsuden.schemas import streams
from setsuden.schemas.errors import ConfigError, ForbiddenError, UnavailableError
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

USERS = 'authorization { users = [ { user: "us@er", password: "p/w:d?#@" } ] }'
"""Each character that has a meaning in an address."""
ENCODED = "us%40er:p%2Fw%3Ad%3F%23%40"


@asynccontextmanager
async def linked(options: LinkOptions) -> AsyncIterator[Link]:
    """A link that was started, whatever came of it."""
    link = Link(options, "test")
    link.start()
    yield link
    await link.close()


# -- operator mode --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Realm:
    """A server in operator mode, its application account, and the files of its users."""

    broker: LocalBroker
    operator: jwt.Entity
    account: jwt.Entity
    system: Path

    def options(self, creds: Path) -> LinkOptions:
        return self.broker.options.model_copy(
            update={"credentials_file": str(creds), "reconnect_max_seconds": 0.2}
        )

    def creds(self, name: str, *, expires: float | None = None) -> Path:
        return jwt.creds_file(
            self.broker.folder / f"{name}.creds",
            jwt.mint_user(self.account, name, expires=expires),
        )


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    operator = jwt.mint_operator()
    system = jwt.mint_account(operator, "SYS")
    account = jwt.mint_account(operator, "APP", {"limits": jwt.JETSTREAM})
    config = jwt.server_config(operator, [system, account], tmp_path / "jwt")
    admin = jwt.creds_file(tmp_path / "sys.creds", jwt.mint_user(system, "admin"))
    with LocalBroker(tmp_path / "nats", accounts=config) as broker:
        yield Realm(broker, operator, account, admin)


async def test_a_creds_file_logs_in_and_stores(realm: Realm) -> None:
    async with linked(realm.options(realm.creds("device-1"))) as link:
        await link.wait_up(10)
        jetstream = JetStream(link)
        await jetstream.start()
        await jetstream.apply_stream(streams.events(streams.StreamBounds()))
        assert (await link.store("evt.p.d", b"1")).sequence == 1


def test_whoever_logs_in_is_known_by_the_name_that_the_login_tells(tmp_path: Path) -> None:
    account = jwt.mint_account(jwt.mint_operator(), "APP")
    dev = jwt.creds_file(tmp_path / "dev.creds", jwt.mint_user(account, "dev-1"))
    odd = jwt.creds_file(tmp_path / "odd.creds", jwt.mint_user(account, "dev.*.1"))
    torn = tmp_path / "torn.creds"
    torn.write_text(dev.read_text()[:200])
    files = {str(dev): "dev-1", str(odd): None, str(torn): None, str(tmp_path): None}
    for file, name in files.items():
        assert principal(LinkOptions(credentials_file=file)) == name
    file = "password"
    assert principal(LinkOptions(user="dev-1", password_file=file)) == "dev-1"
    assert principal(LinkOptions(urls=("nats://dev-1:p@h",))) == "dev-1"
    assert principal(LinkOptions(urls=("nats://a-token@h",))) is None
    assert principal(LinkOptions()) is None


async def test_expired_creds_are_refused_with_their_date_and_taken_up_once_replaced(
    realm: Realm,
) -> None:
    file = realm.creds("device-1", expires=time.time() - 60)
    async with linked(realm.options(file)) as link:
        with pytest.raises(ForbiddenError, match=r"device-1\.creds expired at \d{4}-.* UTC"):
            await link.wait_up(10, refused_ends=True)
        assert link.state is LinkState.REFUSED
        realm.creds("device-1")
        await link.wait_up(10)


async def test_creds_that_expire_while_connected_end_it_and_renewed_ones_reopen_it(
    realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    file = realm.creds("device-1", expires=time.time() + 2)
    down: asyncio.Queue[LinkState] = asyncio.Queue()
    async with linked(realm.options(file)) as link:
        await link.wait_up(10)
        link.listen(down.put_nowait)
        assert await asyncio.wait_for(down.get(), 10) is LinkState.DOWN
        assert "user authentication expired" in caplog.text + " ".join(
            str(record.__dict__.get("detail")) for record in caplog.records
        )
        realm.creds("device-1")
        await link.wait_up(10)
        assert link.connections == 2


async def test_a_revoked_user_is_shut_out_at_once_and_said_to_be(realm: Realm) -> None:
    user = jwt.mint_user(realm.account, "device-1")
    file = jwt.creds_file(realm.broker.folder / "device-1.creds", user)
    states: asyncio.Queue[LinkState] = asyncio.Queue()
    async with linked(realm.options(file)) as link:
        await link.wait_up(10)
        link.listen(states.put_nowait)
        await jwt.push(
            realm.system, realm.broker.url, jwt.revoked(realm.account, realm.operator, user)
        )
        assert await asyncio.wait_for(states.get(), 10) is LinkState.DOWN
        assert await asyncio.wait_for(states.get(), 10) is LinkState.REFUSED
        assert isinstance(link.problem, ForbiddenError)
        realm.creds("device-1")  # another key of the same name
        await link.wait_up(10)


async def test_a_user_of_a_foreign_operator_is_refused(realm: Realm) -> None:
    account = jwt.mint_account(jwt.mint_operator("foreign"), "APP", {"limits": jwt.JETSTREAM})
    file = jwt.creds_file(realm.broker.folder / "f.creds", jwt.mint_user(account, "device-1"))
    async with linked(realm.options(file)) as link:
        with pytest.raises(ForbiddenError, match="refused the credentials"):
            await link.wait_up(10, refused_ends=True)


async def test_a_seed_that_is_not_the_jwts_is_refused(realm: Realm) -> None:
    user, other = (jwt.mint_user(realm.account, "device-1") for _ in range(2))
    mixed = jwt.Entity("x", other.keys, user.jwt, {})
    file = jwt.creds_file(realm.broker.folder / "mixed.creds", mixed)
    async with linked(realm.options(file)) as link:
        with pytest.raises(ForbiddenError, match="refused the credentials"):
            await link.wait_up(10, refused_ends=True)


async def test_permissions_of_a_jwt_are_told_by_subject(realm: Realm) -> None:
    user = jwt.mint_user(realm.account, "device-1", {"pub": {"deny": ["shut.>"]}})
    file = jwt.creds_file(realm.broker.folder / "device-1.creds", user)
    async with linked(realm.options(file)) as link:
        await link.wait_up(10)
        with pytest.raises(ForbiddenError, match=r"shut\.now"):
            await asyncio.wait_for(link.store("shut.now", b""), 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no user nkey seed"),
        (b"-----BEGIN NATS USER JWT-----\n", "not base32|no user nkey seed"),
        (b"-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n", "no user nkey"),
        (b"SU" + b"A" * 56, "damaged"),
        (b"SU-not-base-32", "not base32"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"S" * 300_000, "over"),
        (jwt.KeyPair("account").seed.encode(), "not a user's"),
        (jwt.KeyPair("user").seed.encode()[:-1], "not base32|damaged"),
    ],
)
async def test_malformed_creds_name_the_file_and_the_form_and_hold_nothing_up(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """Without its first line nats-py would read such a file for ever, and with it the loop."""
    file = tmp_path / "device-1.creds"
    file.write_bytes(content)
    async with linked(LinkOptions(credentials_file=str(file))) as link:
        with pytest.raises(ForbiddenError, match=reason) as caught:
            await link.wait_up(10, refused_ends=True)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
async def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "device.creds"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    async with linked(LinkOptions(credentials_file=str(path))) as link:
        with pytest.raises(ForbiddenError, match=r"device\.creds cannot be used"):
            await link.wait_up(5, refused_ends=True)


async def test_an_nkey_seed_alone_logs_in_where_the_server_knows_its_key(tmp_path: Path) -> None:
    keys = jwt.KeyPair("user")
    accounts = f"authorization {{ users = [ {{ nkey: {keys.public} }} ] }}"
    seed = tmp_path / "device.nk"
    seed.write_text(f"{keys.seed}\n", encoding="utf-8")
    with LocalBroker(tmp_path / "nats", accounts=accounts) as broker:
        options = broker.options.model_copy(update={"credentials_file": str(seed)})
        async with linked(options) as link:
            await link.wait_up(10)
        seed.write_text(jwt.KeyPair("user").seed, encoding="utf-8")
        async with linked(options) as link:
            with pytest.raises(ForbiddenError, match="refused the credentials"):
                await link.wait_up(10, refused_ends=True)


# -- users, passwords, tokens ---------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path / "guarded", accounts=USERS) as broker:
        yield broker


async def test_a_percent_encoded_login_in_the_address_is_decoded(guarded: LocalBroker) -> None:
    url = guarded.url.replace("://", f"://{ENCODED}@")
    async with linked(guarded.options.model_copy(update={"urls": (url,)})) as link:
        await link.wait_up(10)


async def test_a_token_in_the_address_is_decoded(tmp_path: Path) -> None:
    accounts = 'authorization { token: "t/o@k" }'
    with LocalBroker(tmp_path / "nats", accounts=accounts) as broker:
        url = broker.url.replace("://", "://t%2Fo%40k@")
        async with linked(broker.options.model_copy(update={"urls": (url,)})) as link:
            await link.wait_up(10)


async def test_a_renewed_password_file_is_taken_up_without_a_restart(guarded: LocalBroker) -> None:
    file = guarded.folder / "password"
    file.write_text("old", encoding="utf-8")
    login = {"user": "us@er", "password_file": str(file)}
    async with linked(guarded.options.model_copy(update=login)) as link:
        with pytest.raises(ForbiddenError, match="refused the credentials"):
            await link.wait_up(10, refused_ends=True)
        file.write_text("p/w:d?#@\n", encoding="utf-8")
        await link.wait_up(10)


async def test_refused_credentials_fail_at_once_where_asked_and_else_when_the_time_is_over(
    guarded: LocalBroker,
) -> None:
    loop = asyncio.get_running_loop()
    async with linked(guarded.options) as link:
        start = loop.time()
        with pytest.raises(ForbiddenError):
            await link.wait_up(30, refused_ends=True)
        assert loop.time() - start < 5
        with pytest.raises(ForbiddenError):
            await link.wait_up(0.2)


async def test_a_refusing_address_does_not_hold_up_the_others(
    guarded: LocalBroker, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    with LocalBroker(tmp_path / "open") as broker:
        urls = (guarded.url, f"nats://127.0.0.1:{free_port()}", broker.url)
        start = loop.time()
        options = broker.options.model_copy(update={"urls": urls})
        async with linked(options) as link:
            await link.wait_up(10)
        assert loop.time() - start < 2


async def test_of_refusing_and_absent_addresses_both_are_told(guarded: LocalBroker) -> None:
    absent = free_port()
    urls = (f"nats://127.0.0.1:{absent}", guarded.url)
    async with linked(guarded.options.model_copy(update={"urls": urls})) as link:
        with pytest.raises(UnavailableError, match=f"{absent}.*; .*refused the credentials"):
            await link.wait_up(1)
        assert link.state is LinkState.DOWN


async def test_a_submit_with_refused_credentials_fails_at_once(guarded: LocalBroker) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncClient(guarded.url, device="dev-1") as client:
        start = loop.time()
        with pytest.raises(ForbiddenError, match="refused the credentials") as caught:
            await client.submit("digits", b"abc")
        assert loop.time() - start < 3
        assert caught.value.trace_id is not None


async def test_a_submit_without_a_broker_fails_within_seconds() -> None:
    loop = asyncio.get_running_loop()
    async with AsyncClient(f"nats://127.0.0.1:{free_port()}", device="dev-1") as client:
        start = loop.time()
        with pytest.raises(UnavailableError, match=r"within 5\.0 s \(cannot reach 127\.0\.0\.1"):
            await client.submit("digits", b"abc")
        assert loop.time() - start < 6


# -- no secret anywhere ---------------------------------------------------------------------------


SECRETS = ("s3cr3t", "p%2Fw", "p/w")


@pytest.mark.parametrize(
    "url",
    [
        "nats://anna:s3cr3t@127.0.0.1:{port}",
        "nats://anna:p%2Fws3cr3t@127.0.0.1:{port}",
        "nats://s3cr3t@127.0.0.1:{port}",
        "tls://anna:s3cr3t@127.0.0.1:{port}",
    ],
)
async def test_no_secret_of_an_address_enters_a_message_a_log_or_a_representation(
    guarded: LocalBroker, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    options = LinkOptions(urls=(url.format(port=guarded.port),), durability="relaxed")
    async with linked(options) as link:
        with pytest.raises(ForbiddenError) as caught:
            await link.wait_up(10, refused_ends=True)
    shown = "".join(traceback.format_exception(caught.value))
    shown += repr(options) + str(options) + repr(Address.of(options.urls[0]))
    shown += repr(login_of(options, Address.of(options.urls[0])))
    shown += caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize(
    "url",
    [
        "nats://anna:s3cr3t/@127.0.0.1",
        "nats://anna:s3cr3t/x@127.0.0.1",
        "nats://anna:s3cr3t?@127.0.0.1",
        "nats://anna:s3cr3t#@127.0.0.1",
        "nats://anna:s3cr3t@[::1",
        "nats://anna:s3cr3t@127.0.0.1:99999",
        "nats://anna:s3cr3t@127.0.0.1:0",
        "nats://anna:s3cr3t%ff@127.0.0.1",
        "nats://anna:s3cr3t@",
        "nats://anna:s3cr3t@a b",
        "nats://anna:s3cr3t@a\n",
        "nats://anna:s3cr3t@one,nats://two",
        "nats://anna:s3cr3t@127.0.0.1/path",
        "http://anna:s3cr3t@127.0.0.1",
        "nats:anna:s3cr3t@127.0.0.1",
        "nats://:s3cr3t@127.0.0.1",
        "nats://anna:s3cr3t@[fe80::zz]",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LinkOptions(urls=(url,))
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ConfigError) as told:
        AsyncClient(url)
    assert "s3cr3t" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_websocket_addresses_are_refused_by_name(scheme: str) -> None:
    with pytest.raises(ValidationError, match="WebSocket addresses are not supported"):
        LinkOptions(urls=(f"{scheme}://127.0.0.1:443",))


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_user_and_password_survive_their_encoding(user: str, password: str) -> None:
    try:
        url = f"nats://{quote(user, safe='')}:{quote(password, safe='')}@host:1"
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    address = Address.of(url)
    assert (address.user, address.password, address.place) == (user, password, "host:1")
    assert password not in redacted(url) or len(password) < 12


@given(st.text(st.characters(exclude_categories=("Z", "C"))), st.sampled_from(["nats", "tls"]))
def test_redaction_hides_every_login_however_it_is_written(login: str, scheme: str) -> None:
    assert redacted(f"see {scheme}://{login}@h:1 there") == f"see {scheme}://***@h:1 there"


def test_redaction_leaves_text_without_a_login_alone() -> None:
    for text in ("nats://127.0.0.1:4222", "a@b", "user@host is not nats://h", ""):
        assert redacted(text) == text


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("nats://[::1]:4223", "[::1]:4223"),
        ("tls://[fe80::1%25eth0]", "[fe80::1%eth0]:4222"),
        ("nats://Example.COM", "example.com:4222"),
        ("nats://h:", "h:4222"),
    ],
)
def test_addresses_are_read_as_they_are_written(url: str, place: str) -> None:
    assert Address.of(url).place == place


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"user": "anna"}, "user needs password_file"),
        ({"password_file": "p"}, "password_file needs user"),
        ({"tls_cert_file": "c"}, "tls_cert_file needs tls_key_file"),
        ({"tls_key_file": "k"}, "tls_key_file needs tls_cert_file"),
        ({"credentials_file": "c", "user": "u", "password_file": "p"}, "either credentials_file"),
        ({"monitor_url": "http://u:p@h:1"}, "without user or password"),
        ({"monitor_url": "http://h:x"}, "http://host:port"),
        ({"monitor_url": "http://h\r\nX: y"}, "http://"),
    ],
)
def test_a_login_that_is_half_given_is_refused(table: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LinkOptions.model_validate(table)
