"""Addresses without the secrets in them: the one place that knows where an address holds some."""

from __future__ import annotations

import re

MASK = "***"
# Greedy to the last @ of the word: people write passwords that hold / or @ without encoding them,
# and what follows the real @ is no secret anyway.
_USER_INFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,15}://)\S*@", re.IGNORECASE)
_QUOTED_USER_INFO = re.compile(
    r"(?P<scheme>(?P<quote>[\"'])[a-z][a-z0-9+.-]{0,15}://)(?:(?!(?P=quote))[^\n])*@", re.IGNORECASE
)
_WHOLE_USER_INFO = re.compile(
    r"^(?P<scheme>[a-z][a-z0-9+.-]{0,15}://).*@", re.IGNORECASE | re.DOTALL
)
_QUERY_SECRET = re.compile(
    r"(?P<name>[?&;](?:[a-z0-9_.-]*(?:password|passwd|secret|token|api_?key|apikey|auth|seed)"
    r"|pass|pwd|key|sig|signature)=)[^&;\s\"'#]+",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(?:^|_)(?:password|secret|token|key|seed)$")


def masked(text: str) -> str:
    """The text without user names, passwords and tokens of any address in it."""
    if "://" not in text:
        return text
    if not re.search(r"\s", text):
        return masked_address(text)
    return _masked(text)


def masked_address(address: str) -> str:
    """One whole address without its secrets; spaces and quotes in a password hide nothing."""
    return _masked(_WHOLE_USER_INFO.sub(rf"\g<scheme>{MASK}@", address))


def _masked(text: str) -> str:
    text = _QUOTED_USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    return _QUERY_SECRET.sub(rf"\g<name>{MASK}", text)


def is_secret(name: str) -> bool:
    """True for an option whose value is never shown; the path of a secret's file is none."""
    return _SECRET_NAME.search(name) is not None
