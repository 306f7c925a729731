"""Operators, accounts and users for a nats-server in operator mode, without `nsc`.

::

    operator = mint_operator()
    account = mint_account(operator, "APP", {"limits": JETSTREAM})
    user = mint_user(account, "device-1", {"pub": {"allow": ["esc.>"]}})
    broker = LocalBroker(folder, accounts=server_config(operator, [account], folder / "jwt"))
    creds_file(folder / "device-1.creds", user)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nacl.signing import SigningKey

from setsuden.link import LinkOptions
from setsuden.link.connection import Connection

_SEED = 18 << 3
_KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_NO_LIMIT = -1
_COUNTS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_STORES = ("mem_storage", "disk_storage", "streams", "consumer")
LIMITS: dict[str, object] = {"wildcards": True, **dict.fromkeys(_COUNTS, _NO_LIMIT)}
JETSTREAM: dict[str, object] = {**LIMITS, **dict.fromkeys(_STORES, _NO_LIMIT)}
"""Limits of an account that may use JetStream; the system account must not."""


@dataclass(frozen=True)
class KeyPair:
    """An nkey."""

    kind: str
    raw: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def public(self) -> str:
        """``O…``, ``A…`` or ``U…``."""
        return _encoded(bytes((_KINDS[self.kind],)) + bytes(SigningKey(self.raw).verify_key))

    @property
    def seed(self) -> str:
        """``SO…``, ``SA…`` or ``SU…``."""
        prefix = _KINDS[self.kind]
        return _encoded(bytes((_SEED | prefix >> 5, (prefix & 31) << 3)) + self.raw)

    def sign(self, text: str) -> bytes:
        """The Ed25519 signature."""
        return SigningKey(self.raw).sign(text.encode()).signature


@dataclass(frozen=True)
class Entity:
    """An operator, account or user: its key, its JWT, and what that says."""

    name: str
    keys: KeyPair
    jwt: str
    claims: Mapping[str, object]


def mint_operator(name: str = "operator") -> Entity:
    """One that signs itself."""
    keys = KeyPair("operator")
    return _minted(name, keys, keys, {}, None)


def mint_account(
    operator: Entity,
    name: str,
    claims: Mapping[str, object] | None = None,
    *,
    keys: KeyPair | None = None,
    expires: float | None = None,
) -> Entity:
    """Signed by the operator; ``claims`` are laid over ``nats`` (limits, exports, revocations).

    With ``keys`` of an earlier one it is that account again, with other claims.
    """
    known = {"limits": LIMITS, "default_permissions": {"pub": {}, "sub": {}}} | dict(claims or {})
    return _minted(name, keys or KeyPair("account"), operator.keys, known, expires)


def mint_user(
    account: Entity,
    name: str,
    claims: Mapping[str, object] | None = None,
    *,
    keys: KeyPair | None = None,
    expires: float | None = None,
) -> Entity:
    """Signed by the account; ``claims`` are laid over ``nats`` (pub, sub, resp)."""
    known = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1} | dict(claims or {})
    return _minted(name, keys or KeyPair("user"), account.keys, known, expires)


def revoked(account: Entity, operator: Entity, user: Entity) -> Entity:
    """The account once more, with this user shut out."""
    known = dict(account.claims) | {"revocations": {user.keys.public: int(time.time()) + 1}}
    return mint_account(operator, account.name, known, keys=account.keys)


def creds_file(path: Path, user: Entity) -> Path:
    """The user's ``.creds`` file, as ``nsc`` writes it."""
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user.jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.keys.seed}\n------END USER NKEY SEED------\n\n"
        "*************************************************************\n",
        encoding="utf-8",
    )
    return path


def server_config(operator: Entity, accounts: Iterable[Entity], folder: Path) -> str:
    """The server's operator mode; its first account is the system's, all lie in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    known = list(accounts)
    for account in known:
        (folder / f"{account.keys.public}.jwt").write_text(account.jwt, encoding="utf-8")
    return (
        f"operator: {operator.jwt}\n"
        f"system_account: {known[0].keys.public}\n"
        f'resolver: {{ type: full, dir: "{folder}", allow_delete: false, interval: "2m" }}\n'
    )


async def push(system_user: Path, url: str, account: Entity) -> None:
    """Give the running server another version of this account."""
    options = LinkOptions(urls=(url,), credentials_file=str(system_user))
    connection = await Connection.open(options, url, "push")
    try:
        answer = await connection.ask("$SYS.REQ.CLAIMS.UPDATE", account.jwt.encode(), 5)
        assert json.loads(answer.data)["data"]["code"] == 200, answer.data
    finally:
        await connection.discard()


def _minted(
    name: str,
    keys: KeyPair,
    issuer: KeyPair,
    claims: Mapping[str, object],
    expires: float | None,
) -> Entity:
    body: dict[str, object] = {
        "iat": int(time.time()),
        "iss": issuer.public,
        "name": name,
        "sub": keys.public,
        "nats": dict(claims) | {"type": keys.kind, "version": 2},
    }
    if expires is not None:
        body["exp"] = int(expires)
    digest = hashlib.sha256(json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
    signature = base64.urlsafe_b64encode(issuer.sign(signed)).decode().rstrip("=")
    return Entity(name, keys, f"{signed}.{signature}", claims)


def _part(content: Mapping[str, object]) -> str:
    text = json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _encoded(content: bytes) -> str:
    check = binascii.crc_hqx(content, 0).to_bytes(2, "little")
    return base64.b32encode(content + check).decode().rstrip("=")
