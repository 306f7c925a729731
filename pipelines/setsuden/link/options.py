"""How a process reaches the broker; every bound has its name here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from setsuden.schemas.base import Model

from .address import Address

FILES = ("credentials_file", "password_file", "tls_ca_file", "tls_cert_file", "tls_key_file")
"""Options that name a file. All are read again at each connection, so renewed ones are used."""


class LinkOptions(Model):
    """The ``[nats]`` table of every configuration file."""

    RETIRED: ClassVar[Mapping[str, str]] = {"max_pending_bytes": "1 MiB"}

    urls: tuple[str, ...] = Field(
        default=("nats://127.0.0.1:4222",), strict=False, min_length=1, repr=False
    )
    """Tried in turn; ``nats://`` or ``tls://``, which refuses a server without encryption.
    ``user:password@`` or a ``token@`` before the host is percent-encoded."""
    monitor_url: str | None = Field(default=None, repr=False)
    """HTTP monitoring address of the server (``http://host:8222``): proves its durability."""
    durability: Literal["strict", "relaxed"] = "strict"
    """``strict`` refuses a broker that cannot prove ``sync_interval: always`` and 2.15."""
    credentials_file: str | None = None
    """A ``.creds`` file, or an nkey seed alone; read again at each connection, so a renewed one is
    taken up."""
    user: str | None = None
    """Login name; with ``password_file``."""
    password_file: str | None = None
    """File whose only content is the password; read again at each connection."""
    tls_ca_file: str | None = None
    """Certificate authority (PEM) that signed the server's certificate; without it the system's
    authorities count. Any ``tls_`` option refuses a server without encryption."""
    tls_cert_file: str | None = None
    """Client certificate (PEM, with the chain below its authority); with ``tls_key_file``."""
    tls_key_file: str | None = None
    """Key of the client certificate (PEM, without a passphrase)."""
    tls_first: bool = False
    """For a server with ``handshake_first``: encrypts before the server says anything."""
    connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """An address that has not let us in by then counts as unreachable."""
    publish_timeout_seconds: float = Field(default=5.0, gt=0, le=300)
    """A stored message must be acknowledged within this, else it is tried again."""
    ping_interval_seconds: float = Field(default=2.0, gt=0, le=60)
    """Pause between proofs that the broker still answers."""
    ping_timeout_seconds: float = Field(default=3.0, gt=0, le=60)
    """A half-open link is noticed within interval + timeout."""
    reconnect_max_seconds: float = Field(default=3.0, gt=0, le=300)
    """Longest pause between attempts; pauses grow from 0.05 s with jitter."""

    @property
    def anonymous(self) -> bool:
        """True where nobody logs in: the broker lets everybody do everything."""
        in_url = any("@" in url for url in self.urls)
        named = self.user or self.credentials_file or self.tls_cert_file
        return not (named or in_url)

    @property
    def encrypted(self) -> bool:
        """True when an option asks for encryption, whatever the address says."""
        return self.tls_first or bool(self.tls_ca_file or self.tls_cert_file or self.tls_key_file)

    def resolved(self, folder: Path) -> LinkOptions:
        """The same, its relative files being relative to this folder."""
        files = {name: getattr(self, name) for name in FILES}
        return self.model_copy(
            update={name: str(folder / file) for name, file in files.items() if file is not None}
        )

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            Address.of(url)
        return urls

    @field_validator("monitor_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url:
            raise ValueError("an address of monitoring must begin with http:// or https://")
        try:
            parts = urlsplit(url)
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or "@" in url:
            raise ValueError(
                "an address of monitoring is http://host:port, without user or password"
            )
        return url

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        pairs = (("user", "password_file"), ("tls_cert_file", "tls_key_file"))
        for one, other in (*pairs, *((other, one) for one, other in pairs)):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise ValueError(f"{one} needs {other} beside it")
        if self.credentials_file is not None and self.user is not None:
            raise ValueError("set either credentials_file, or user and password_file")
        return self
