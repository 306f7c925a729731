"""The link: the one supervised NATS connection of a process.

Nothing else imports ``nats``. Imports ``setsuden.schemas`` only, so that the light client can
stand on it too. Names are loaded when asked for: reading a configuration needs
:class:`LinkOptions` and not the 0.2 s of a NATS client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .jetstream import Delivery, JetStream
    from .link import Link, LinkState
    from .messages import Incoming, Stored
    from .options import LinkOptions
    from .untrusted import redacted

__all__ = [
    "Delivery",
    "Incoming",
    "JetStream",
    "Link",
    "LinkOptions",
    "LinkState",
    "Stored",
    "redacted",
]

_PLACES = {
    "Delivery": ".jetstream",
    "Incoming": ".messages",
    "JetStream": ".jetstream",
    "Link": ".link",
    "LinkOptions": ".options",
    "LinkState": ".link",
    "Stored": ".messages",
    "redacted": ".untrusted",
}


def __getattr__(name: str) -> Any:
    """One of the names above."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name], __name__), name)
