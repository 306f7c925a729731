"""One GET of a device in the local network: bounded in bytes and in time, no detours."""

from __future__ import annotations

import base64
import ssl
from urllib.parse import unquote, urlsplit

from setsuden.energy.protocols.numbers import MAX_BYTES
from setsuden.link import web

TIMEOUT_SECONDS = 2.0
"""Of the whole question. Environment proxies are not asked: these devices stand beside us."""


class Endpoint:
    """An http or https address that is asked again and again, each time on a new connection.

    Many plugs hold two connections at most, and a kept one would lock their owner out.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        insecure: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """User and password may stand in the address too; ``insecure`` takes any certificate."""
        parts = urlsplit(url)
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers = {"Accept": "application/json", "Connection": "close"}
        user = user or (unquote(parts.username) if parts.username else None)
        password = password or (unquote(parts.password) if parts.password else None)
        if user is not None:
            plain = f"{user}:{password or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(plain).decode()}"
        self._tls = tls(insecure=True) if insecure else None
        self._timeout = timeout_seconds

    def get(self) -> bytes:
        """The body; raises OSError, in words without the address (queries hold passwords)."""
        try:
            return web.get(
                self._url,
                limit=MAX_BYTES,
                timeout=self._timeout,
                headers=self._headers,
                direct=True,
                tls=self._tls,
            )
        except web.WebError as error:
            if error.status in {401, 403}:
                raise OSError(f"it refuses user and password (status {error.status})") from error
            raise


def tls(*, insecure: bool = False) -> ssl.SSLContext:
    """Certificates are checked unless the person said not to."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
