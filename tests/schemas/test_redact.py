"""No address is shown with the secrets in it."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.process.logs import formatter
from setsuden.schemas.redact import masked, masked_address

ADDRESSES = [
    ("tls://anna:secret@host:1", "tls://***@host:1"),
    ("nats://anna:se/cr@et@host:4222", "nats://***@host:4222"),
    ("nats://token@host", "nats://***@host"),
    ("http://plug/cm?user=a&password=hunter2&x=1", "http://plug/cm?user=a&password=***&x=1"),
    ("https://api.example/v1?auth_token=abc", "https://api.example/v1?auth_token=***"),
    ("http://[::1]:8222/varz", "http://[::1]:8222/varz"),
    ("nats://host:4222", "nats://host:4222"),
]


@pytest.mark.parametrize(("address", "shown"), ADDRESSES)
def test_user_password_and_tokens_of_an_address_are_masked(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert masked_address(address) == shown
    assert masked(f"cannot reach {address} now") == f"cannot reach {shown} now"


def test_addresses_beside_each_other_keep_their_hosts() -> None:
    line = 'urls = ["nats://a:p@one:1", "nats://b:q r@two:2"]'
    assert masked(line) == 'urls = ["nats://***@one:1", "nats://***@two:2"]'


@given(st.text(min_size=1).filter(lambda text: "\n" not in text))
def test_no_password_is_shown_whatever_stands_in_it(password: str) -> None:
    shown = masked_address(f"nats://anna:{password}@host:4222")
    assert shown == "nats://***@host:4222"


def test_a_log_line_shows_no_password_wherever_it_stands() -> None:
    record = logging.LogRecord("setsuden", logging.INFO, "", 0, "link_down", (), None)
    record.detail = "cannot reach nats://anna:s3cr/e@t@host:4222"
    record.urls = ["tls://b:s3cr@other:1", 'tls://c:s3cr"x@other:2']
    for terminal in (False, True):
        assert "s3cr" not in formatter(terminal=terminal).format(record)
    line = formatter(terminal=False).format(record)
    assert "s3cr" not in line
    assert json.loads(line)["detail"] == "cannot reach nats://***@host:4222"
