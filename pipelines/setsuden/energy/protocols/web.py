"""One GET of a device in the local network: bounded in bytes and in time, no detours."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
import time
from urllib.parse import unquote, urlsplit

from setsuden.energy.protocols.numbers import MAX_BYTES

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
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Accept": "application/json", "Connection": "close"}
        user = user or (unquote(parts.username) if parts.username else None)
        password = password or (unquote(parts.password) if parts.password else None)
        if user is not None:
            plain = f"{user}:{password or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(plain).decode()}"
        self._insecure, self._timeout = insecure, timeout_seconds

    def get(self) -> bytes:
        """The body; raises OSError, in words without the address (queries hold passwords)."""
        deadline = time.monotonic() + self._timeout
        with contextlib.closing(self._connection()) as connection:
            try:
                connection.request("GET", self._target, headers=self._headers)
                answer = connection.getresponse()
                if answer.status != http.client.OK:
                    raise OSError(_status(answer))
                return _body(answer, deadline)
            except TimeoutError:
                raise TimeoutError(f"no answer within {self._timeout:g} s") from None
            except http.client.HTTPException as error:
                raise OSError(f"no HTTP answer: {type(error).__name__}") from error

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=tls(insecure=self._insecure)
        )


def tls(*, insecure: bool = False) -> ssl.SSLContext:
    """Certificates are checked unless the person said not to."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _status(answer: http.client.HTTPResponse) -> str:
    """A redirect is not followed: it could carry the password to another host."""
    if answer.status in {301, 302, 303, 307, 308}:
        return f"it answers with a redirect ({answer.status}): write the final address"
    if answer.status in {401, 403}:
        return f"it refuses user and password (status {answer.status})"
    return f"it answers with status {answer.status}"


def _body(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """All of it; a body that drips is given up at the deadline."""
    parts = bytearray()
    while part := answer.read1(MAX_BYTES):
        parts += part
        if len(parts) > MAX_BYTES:
            raise OSError(f"the answer is longer than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(parts)
