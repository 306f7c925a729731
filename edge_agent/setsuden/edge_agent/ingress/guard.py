"""Who may ask over HTTP: not a web page that some browser on the device happens to show.

A page of another site can send requests here, and by DNS rebinding read the answers. It cannot
choose the ``Host``, ``Origin`` and ``Sec-Fetch-Site`` headers that its browser sends with them,
nor send a content type that a form has not.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setsuden.edge_agent.config import HttpOptions
from setsuden.edge_agent.hosts import is_loopback_address, is_unspecified, name_of
from setsuden.schemas import cloudevents
from setsuden.schemas.errors import (
    ConfigError,
    RequestRefusedError,
    UnsupportedContentTypeError,
)

from .request import HttpRequest

MIN_TOKEN_CHARACTERS = 16
CLIENT_SHARE = 4
"""One remote address gets at most this part of ``http.max_waiting``; the device itself all."""
_FORMS = frozenset({"text/plain", "multipart/form-data", "application/x-www-form-urlencoded"})
"""The content types that a page may send anywhere without asking first."""


class RequestGuard:
    """Decides from a request's head alone whether it is let in."""

    def __init__(self, options: HttpOptions, token: bytes | None = None) -> None:
        self._token = token
        self._share = max(1, options.max_waiting // CLIENT_SHARE)
        self._chosen = frozenset(map(name_of, options.allowed_hosts))
        own = name_of(options.host)
        self._names = self._chosen | {"localhost"} | ({own} if not is_unspecified(own) else set())
        self._asking: Counter[str] = Counter()

    def check(self, request: HttpRequest, *, health: bool) -> None:
        """Raises RequestRefusedError; ``health`` is answered without the token."""
        self._check_host(request)
        self._check_origin(request)
        if not health and not self.knows_token(request):
            raise RequestRefusedError(
                "this port asks for its token",
                http_status=401,
                field="authorization",
                remedy="send Authorization: Bearer and the content of http.token_file",
                headers=(("www-authenticate", "Bearer"),),
            )

    def _check_host(self, request: HttpRequest) -> None:
        host = request.headers.get("host")
        if host is None:  # HTTP/1.0: no browser
            return
        name = name_of(host)
        if (
            name not in self._names
            and not is_loopback_address(name)
            and name != name_of(request.server)
        ):
            raise RequestRefusedError(
                f"this is not {name[:64]!r}",
                http_status=403,
                field="host",
                remedy="ask for localhost, or name the host in http.allowed_hosts",
            )

    def _check_origin(self, request: HttpRequest) -> None:
        origin = request.headers.get("origin")
        if origin is not None:
            place = origin.partition("://")[2].lower()
            same = place == request.headers.get("host", "").lower() and place
            if not same and name_of(place) not in self._chosen:
                raise _foreign("origin")
        elif request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            raise _foreign("sec-fetch-site")

    def knows_token(self, request: HttpRequest) -> bool:
        """True when the request carries the token, or none is asked for."""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(sent, self._token) and scheme.lower() == "bearer"

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """One of the places of this address; raises RequestRefusedError past its share."""
        if not is_loopback_address(client) and self._asking[client] >= self._share:
            raise RequestRefusedError(
                f"{self._share} requests of one client are being answered",
                http_status=429,
                field="client",
                remedy="wait for answers, or raise http.max_waiting",
                headers=(("retry-after", "5"),),
            )
        self._asking[client] += 1
        try:
            yield
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]


def check_content_type(request: HttpRequest, *, required: bool) -> None:
    """Raises UnsupportedContentTypeError for what a form can send; absent counts as that too."""
    kind = cloudevents.media_type(request.content_type)
    if kind in _FORMS or (required and not kind):
        raise UnsupportedContentTypeError(
            f"content type {kind[:64]!r} is not served",
            field="content_type",
            remedy=f"send content-type: {cloudevents.OCTETS}, or the type of what you send",
        )
    cloudevents.check_charset(request.content_type)


def read_token(options: HttpOptions, base: Path) -> bytes | None:
    """The token in ``http.token_file``; raises ConfigError."""
    if options.token_file is None:
        return None
    path = base / options.token_file
    try:
        token = path.read_bytes()[:4096].strip()
    except OSError as error:
        raise ConfigError(
            f"http.token_file: cannot read {path}: {error.strerror}",
            remedy="write a secret into it: openssl rand -hex 32",
        ) from error
    if len(token) < MIN_TOKEN_CHARACTERS or any(not 0x21 <= byte < 0x7F for byte in token):
        raise ConfigError(
            f"http.token_file: {path} holds no token of {MIN_TOKEN_CHARACTERS} characters or more",
            remedy="write one line of printable ASCII into it: openssl rand -hex 32",
        )
    return token


def _foreign(field: str) -> RequestRefusedError:
    return RequestRefusedError(
        "a page of another origin may not ask this device",
        http_status=403,
        field=field,
        remedy="ask from the device itself, or name the page's host in http.allowed_hosts",
    )
