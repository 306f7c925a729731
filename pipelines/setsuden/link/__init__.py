"""The link: the one supervised NATS connection of a process.

Nothing else imports ``nats``. Imports ``setsuden.schemas`` only, so that the light client can
stand on it too.
"""

import logging

from .jetstream import Delivery, JetStream
from .link import Link, LinkState
from .messages import Incoming, Stored
from .options import LinkOptions

__all__ = ["Delivery", "Incoming", "JetStream", "Link", "LinkOptions", "LinkState", "Stored"]

# An application that configures no logging hears nothing from us: errors are raised to it.
logging.getLogger("setsuden").addHandler(logging.NullHandler())
