"""The link: the one supervised NATS connection of a process.

Nothing else imports ``nats``. Imports ``setsuden.schemas`` only, so that the light client can
stand on it too.
"""

from .jetstream import Delivery, JetStream
from .link import Link, LinkState
from .messages import Incoming, Stored
from .options import LinkOptions

__all__ = ["Delivery", "Incoming", "JetStream", "Link", "LinkOptions", "LinkState", "Stored"]
