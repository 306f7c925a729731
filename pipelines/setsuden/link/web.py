"""How HTTP leaves this process: through the environment's proxy, but never to this machine."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit

Handler = urllib.request.BaseHandler | type[urllib.request.BaseHandler]


class _Proxies(urllib.request.ProxyHandler):
    """A proxy elsewhere cannot reach our loopback, and few people think of ``no_proxy``."""

    def proxy_open(
        self,
        req: urllib.request.Request,
        proxy: str,
        type: str,  # noqa: A002  # urllib's signature
    ) -> object:
        """None: go there directly."""
        return None if is_loopback(req.host) else super().proxy_open(req, proxy, type)


def opener(*handlers: Handler) -> urllib.request.OpenerDirector:
    """For addresses that a person configured: HTTP_PROXY and the like count."""
    return urllib.request.build_opener(_Proxies, *handlers)


def direct(*handlers: Handler) -> urllib.request.OpenerDirector:
    """For servers beside us: no proxy, whatever the environment says."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), *handlers)


def is_loopback(place: str) -> bool:
    """True for ``localhost:8080``, ``127.0.0.1`` and ``[::1]:80``; nothing is looked up."""
    host = urlsplit(f"//{place}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
