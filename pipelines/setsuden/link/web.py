"""One HTTP request: bounded in bytes and time, without redirects, through a proxy where one is due.

The environment's proxies count for addresses that a person configured, but never for this machine:
a proxy elsewhere cannot reach our loopback, and few people think of ``no_proxy``.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

_CHUNK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class WebError(OSError):
    """No usable answer, in words without the address: queries and user names hold secrets."""

    def __init__(self, text: str, *, status: int = 0, body: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        """Of an answer that is a refusal; 0 where there was no answer."""
        self.body = body
        """The beginning of a refusal's text."""


class AnswerTooLongError(WebError):
    """The server was content, but its answer is over the limit."""


def get(
    url: str,
    *,
    limit: int,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    direct: bool = False,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """The body; raises WebError. ``direct``: no proxy, whatever the environment says."""
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  # checked below
    proxies = {} if direct else urllib.request.getproxies()
    return _ask(request, _opener(tuple(proxies.items()), tls), limit, timeout)


def post(
    url: str, body: bytes, *, limit: int, timeout: float, headers: Mapping[str, str] | None = None
) -> bytes:
    """The answer's body; raises WebError."""
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310  # checked below
    opener = _opener(tuple(urllib.request.getproxies().items()), None)
    return _ask(request, opener, limit, timeout)


def _ask(
    request: urllib.request.Request,
    opener: urllib.request.OpenerDirector,
    limit: int,
    timeout: float,
) -> bytes:
    if request.type not in {"http", "https"}:  # urllib would read files, and speak FTP
        raise WebError("the address begins with neither http:// nor https://")
    deadline = time.monotonic() + timeout
    try:
        with opener.open(request, timeout=timeout) as answer:
            return _body(answer, limit, deadline)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, limit) from None
    except http.client.HTTPException as error:
        raise WebError(f"no HTTP answer: {type(error).__name__}") from error
    except WebError:
        raise
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            raise WebError(f"no answer within {timeout:g} s") from error
        raise WebError(str(reason) or type(reason).__name__) from error


def _body(answer: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    """All of it; a body that drips is given up at the deadline."""
    body = bytearray()
    while part := answer.read1(_CHUNK_BYTES):
        body += part
        if len(body) > limit:
            raise AnswerTooLongError(f"the answer is longer than {limit} bytes", status=200)
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _refusal(error: urllib.error.HTTPError, limit: int) -> WebError:
    body = b""
    if error.code in _REDIRECTS:
        text = f"it answers with a redirect (status {error.code}): write the final address"
    else:
        text = f"it answers with status {error.code}"
        # Where its text cannot be read the status says enough.
        with contextlib.suppress(OSError, http.client.HTTPException):
            body = error.read(min(limit, _CHUNK_BYTES))
    return WebError(text, status=error.code, body=body)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would hand a token to any host that is named, and turn a POST into a GET."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """None: the redirect is an error."""


class _Proxies(urllib.request.ProxyHandler):
    def proxy_open(
        self,
        req: urllib.request.Request,
        proxy: str,
        type: str,  # noqa: A002  # urllib's signature
    ) -> object:
        """None: go there directly."""
        return None if is_loopback(req.host) else super().proxy_open(req, proxy, type)


@functools.lru_cache(maxsize=16)  # making one reads the system's certificates, 20 ms
def _opener(
    proxies: tuple[tuple[str, str], ...], tls: ssl.SSLContext | None
) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(
        _Proxies(dict(proxies)), _NoRedirects, urllib.request.HTTPSHandler(context=tls)
    )


def is_loopback(place: str) -> bool:
    """True for ``localhost:8080``, ``127.0.0.1`` and ``[::1]:80``; nothing is looked up."""
    host = urlsplit(f"//{place}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
