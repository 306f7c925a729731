"""What a process proves itself with: read from its files anew at each connection.

No secret enters an error, a log or a representation.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from setsuden.schemas.errors import ForbiddenError

from .address import Address
from .options import LinkOptions
from .untrusted import json_object

MAX_FILE_BYTES = 1 << 18
_USER_SEED, _USER_KEY = 20 << 3, 20 << 3
_SEED = 18 << 3
"""Prefixes of nkeys: a seed is written S and a kind, here U; a user's public key is written U."""
_SEED_BYTES = 36
_BLOCK = re.compile(r"-{3,}BEGIN ([A-Z ]+)-{3,}\s+([\w.=-]+)\s+-{3,}END \1-{3,}")
_CREDS_REMEDY = (
    "nats.credentials_file must be a .creds file with a user's JWT and seed, or a user's nkey seed"
    " alone"
)


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in; all empty when nothing is configured."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    show_jwt: Callable[[], bytes] | None = field(default=None, repr=False)
    public_key: str | None = None
    sign: Callable[[str], bytes] | None = field(default=None, repr=False)
    """Signs the server's nonce; base64."""
    expired: str = ""
    """Why the server may refuse it: the JWT's own date, judged by this machine's clock."""


def login_of(options: LinkOptions, address: Address) -> Login:
    """The configured credentials, before those in the address; raises ForbiddenError. Blocks."""
    if options.credentials_file is not None:
        return _from_creds(options.credentials_file)
    if options.user is not None and options.password_file is not None:
        password = _text("password_file", options.password_file).strip()
        return Login(user=options.user, password=password)
    if address.password is not None:
        return Login(user=address.user, password=address.password)
    return Login(token=address.user)


def _content(option: str, file: str) -> bytes:
    """A file's bytes; raises ForbiddenError. Never waits on a pipe or reads without end."""
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):
            raise _unusable(option, file, "it is not a regular file")
        with Path(file).open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be read"
        raise _unusable(option, file, reason) from None
    if len(content) > MAX_FILE_BYTES:
        raise _unusable(option, file, f"it is over {MAX_FILE_BYTES} bytes")
    return content


def _text(option: str, file: str) -> str:
    try:
        return _content(option, file).decode("utf-8")
    except UnicodeDecodeError:
        raise _unusable(option, file, "it is not UTF-8") from None


def _unusable(option: str, file: str, reason: str, remedy: str = "") -> ForbiddenError:
    return ForbiddenError(
        f"nats.{option} {file} cannot be used ({reason})",
        remedy=remedy or "correct the path, or let this user read the file",
    )


# -- .creds and nkeys ---------------------------------------------------------------------------


def _from_creds(file: str) -> Login:
    text = _text("credentials_file", file)
    blocks = dict(_BLOCK.findall(text))
    jwt = blocks.get("NATS USER JWT")
    seed = blocks.get("USER NKEY SEED") or ("" if blocks else text.strip())
    try:
        raw = _raw_seed(seed)
    except ValueError as error:
        raise _unusable("credentials_file", file, str(error), _CREDS_REMEDY) from None
    if blocks and jwt is None:
        raise _unusable("credentials_file", file, "it holds no user JWT", _CREDS_REMEDY)
    sign, public = _signer(raw, file)
    if jwt is None:
        return Login(public_key=public, sign=sign)
    return Login(show_jwt=jwt.encode, public_key=public, sign=sign, expired=_expired(jwt, file))


def _raw_seed(seed: str) -> bytes:
    """The 32 bytes of ``SU…``: base32 of prefix, seed and CRC-16; raises ValueError."""
    if not seed:
        raise ValueError("it holds no user nkey seed")
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("its nkey seed is not base32") from None
    content, check = raw[:-2], raw[-2:]
    if len(raw) != _SEED_BYTES or binascii.crc_hqx(content, 0) != int.from_bytes(check, "little"):
        raise ValueError("its nkey seed is damaged")
    if raw[0] & 0xF8 != _SEED or (raw[0] & 0x07) << 5 | raw[1] >> 3 != _USER_SEED:
        raise ValueError("its nkey seed is not a user's")
    return content[2:]


def _signer(seed: bytes, file: str) -> tuple[Callable[[str], bytes], str]:
    """What signs with this seed, and its public key."""
    try:
        from nacl.signing import SigningKey  # noqa: PLC0415  # only who has an nkey pays for it
    except ImportError:
        remedy = "pip install pynacl"
        raise _unusable("credentials_file", file, "PyNaCl is not installed", remedy) from None
    key = SigningKey(seed)

    def sign(nonce: str) -> bytes:
        return base64.b64encode(key.sign(nonce.encode()).signature)

    content = bytes((_USER_KEY,)) + bytes(key.verify_key)
    check = binascii.crc_hqx(content, 0).to_bytes(2, "little")
    return sign, base64.b32encode(content + check).decode().rstrip("=")


def _expired(jwt: str, file: str) -> str:
    claims = jwt.split(".")[1] if jwt.count(".") == 2 else ""
    try:
        ends = json_object(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).get("exp")
    except (ValueError, binascii.Error):
        return f"{file} holds no readable JWT"
    if not isinstance(ends, int) or isinstance(ends, bool) or not 0 < ends < time.time():
        return ""
    return f"{file} expired at {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(ends))} UTC"


# -- TLS ----------------------------------------------------------------------------------------


def tls_context(options: LinkOptions) -> ssl.SSLContext:
    """TLS 1.2 or newer, the server's name and chain checked; raises ForbiddenError. Blocks."""
    context = _trusting(options.tls_ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.tls_cert_file is not None and options.tls_key_file is not None:
        _load_client_certificate(context, options.tls_cert_file, options.tls_key_file)
    return context


def _trusting(authority: str | None) -> ssl.SSLContext:
    if authority is None:
        return ssl.create_default_context()  # the system's authorities
    _content("tls_ca_file", authority)
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ValueError):
        remedy = "it must hold the PEM certificates of the authority that signed the server's"
        raise _unusable("tls_ca_file", authority, "no certificates", remedy) from None


def _load_client_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    for option, file in (("tls_cert_file", certificate), ("tls_key_file", key)):
        _content(option, file)  # OpenSSL would not say which of the two it cannot read
    try:
        # Without a password OpenSSL would ask the terminal for one, and wait.
        context.load_cert_chain(certificate, key, password=b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not PEM"
        remedy = "nats.tls_cert_file and tls_key_file must be a pair, the key without a passphrase"
        raise _unusable("tls_cert_file", certificate, str(reason), remedy) from None
