"""Where a broker is: one of the configured addresses, taken apart."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

PORT = 4222
_NAME = re.compile(r"[\w.-]+")
_ENCODE = "write %2F for /, %40 for @, %3A for :, %3F for ?, %23 for # in a user or password"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed ``nats://`` or ``tls://`` address."""

    host: str
    port: int
    encrypted: bool
    """Asked for by ``tls://``: a server that offers plain text only is refused."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    """A user without a password is a token."""

    @property
    def place(self) -> str:
        """``host:port`` for messages: never a user or password."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse one; raises ValueError, whose text quotes no part of the address."""
        if not url.isprintable() or " " in url:
            raise ValueError("an address holds no spaces and no control characters")
        scheme = url.partition("://")[0].lower()
        if scheme in {"ws", "wss"}:
            raise ValueError("WebSocket addresses are not supported: use nats:// or tls://")
        if scheme not in {"nats", "tls"} or "://" not in url:
            raise ValueError("an address must begin with nats:// or tls://")
        host, port, user, password = _parts(url)
        return cls(host, port, scheme == "tls", user, password)


def _parts(url: str) -> tuple[str, int, str | None, str | None]:
    # What urlsplit raises may quote a part of the password: its errors are not kept as causes.
    try:
        parts = urlsplit(url)
        port = parts.port
        user, password = _decoded(parts.username), _decoded(parts.password)
    except UnicodeDecodeError:
        raise ValueError("what is percent-encoded in an address must be UTF-8") from None
    except ValueError:
        raise ValueError(f"an address is nats://user:password@host:port ({_ENCODE})") from None
    if parts.path not in {"", "/"} or parts.query or parts.fragment or port == 0:
        raise ValueError(f"an address ends with its port, 1 to 65535 ({_ENCODE})")
    if password is not None and not user:
        raise ValueError("an address with a password needs a user before it")
    host = _host(parts.hostname or "", literal="[" in parts.netloc.rpartition("@")[2])
    return host, PORT if port is None else port, user or None, password


def _host(name: str, *, literal: bool) -> str:
    if not literal:
        if _NAME.fullmatch(name) is None:
            raise ValueError("an address needs one host; several addresses are a list")
        return name
    host = name.replace("%25", "%", 1)  # RFC 6874 writes fe80::1%eth0 as fe80::1%25eth0
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError("what stands in [] must be an IPv6 address") from None
    return host


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text, errors="strict")
