"""How a client reaches the broker, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from setsuden.link import LinkOptions
from setsuden.schemas.errors import ConfigError

SUBMIT_TIMEOUT_SECONDS = 5.0
"""An event that no broker stored by then is reported as such. A broker that restarts is back
sooner; an application that can wait longer says so, one that cannot falls back on its own."""
MAX_OPEN_HANDLES = 10_000
"""Events submitted and without an outcome; past it ``submit`` waits."""


def link_options(urls: str | Sequence[str] | None, options: LinkOptions | None) -> LinkOptions:
    """The given options, reaching the given addresses; raises ConfigError.

    Without options the broker's durability is not asked for: its monitoring port is seldom open
    to applications, and an event is accepted by the agent's outbox, not by the broker.
    """
    if urls is None:
        return options or LinkOptions(durability="relaxed")
    known = options.model_dump() if options else {"durability": "relaxed"}
    addresses = (urls,) if isinstance(urls, str) else tuple(urls)
    try:
        return LinkOptions.model_validate(known | {"urls": addresses})
    except ValidationError as error:
        raise ConfigError(
            f"the client's address cannot be used: {error.errors()[0]['msg']}",
            remedy="give nats://host:4222",
        ) from error
