"""How a process reaches the broker; every bound has its name here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from setsuden.schemas.base import Model


class LinkOptions(Model):
    """The ``[nats]`` table of every configuration file."""

    urls: tuple[str, ...] = Field(default=("nats://127.0.0.1:4222",), strict=False, min_length=1)
    """Tried in turn; ``nats://`` or ``tls://``."""
    monitor_url: str | None = None
    """HTTP monitoring address of the server (``http://host:8222``): proves its durability."""
    durability: Literal["strict", "relaxed"] = "strict"
    """``strict`` refuses a broker that cannot prove ``sync_interval: always`` and 2.15."""
    credentials_file: str | None = None
    """A ``.creds`` file; read again at each connection, so a renewed one is taken up."""
    user: str | None = None
    """Login name; with ``password_file``."""
    password_file: str | None = None
    """File whose only content is the password."""
    tls_ca_file: str | None = None
    """Certificate authority (PEM) that signed the server's certificate."""
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
    max_pending_bytes: int = Field(default=1 << 20, ge=1 << 12)
    """Unsent bytes past which a publisher waits."""

    @property
    def anonymous(self) -> bool:
        """True where nobody logs in: the broker lets everybody do everything."""
        in_url = any("@" in url for url in self.urls)
        return self.user is None and self.credentials_file is None and not in_url

    def resolved(self, folder: Path) -> LinkOptions:
        """The same, its relative files being relative to this folder."""
        names = ("credentials_file", "password_file", "tls_ca_file")
        found = {name: getattr(self, name) for name in names}
        return self.model_copy(
            update={name: str(folder / file) for name, file in found.items() if file is not None}
        )

    @field_validator("urls")
    @classmethod
    def _known_scheme(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.startswith(("nats://", "tls://")):
                raise ValueError(f"{url!r} must begin with nats:// or tls://")
        return urls

    @field_validator("monitor_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} must begin with http:// or https://")
        return url
