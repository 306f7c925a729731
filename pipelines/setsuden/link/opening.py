"""Why a connection could not be opened, and what to do about it."""

from __future__ import annotations

import os
import ssl

from setsuden.schemas.errors import ForbiddenError, LinkError, UnavailableError

from .address import Address
from .credentials import Login
from .options import LinkOptions
from .untrusted import printable

_EXPIRED, _NOT_YET = 10, 9
_WRONG_NAME = frozenset({62, 64})
"""X509_V_ERR codes of OpenSSL: expired, not yet valid, host name or address mismatch."""
_NO_COMMON_VERSION = ("WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION")
_CLOSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
_OUR_CERTIFICATE = (
    "nats.tls_cert_file must be valid now, and of an authority that the server trusts"
)
_LOGIN = ("authorization", "authentication")


def opening_error(
    address: Address, options: LinkOptions, login: Login | None, error: BaseException
) -> LinkError:
    """The error that says which server, why, and what a person can do; never a secret."""
    place = address.place
    if isinstance(error, ssl.SSLError):
        return _tls_error(place, options, error)
    if isinstance(error, OSError):
        return _socket_error(place, options, error)
    text = printable(str(error)) or type(error).__name__
    if any(word in text.lower() for word in _LOGIN):
        return _refused_login(place, login)
    return UnavailableError(
        f"cannot reach {place}: {text}", remedy="is it nats-server that answers there?"
    )


def _socket_error(place: str, options: LinkOptions, error: OSError) -> LinkError:
    if isinstance(error, TimeoutError):
        return UnavailableError(
            f"{place} did not answer within {options.connect_timeout_seconds:g} s",
            remedy="is nats-server running there, and tls_first set as its handshake_first is?",
        )
    if isinstance(error, _CLOSED):  # TLS 1.3 may tell so that it refuses a certificate
        mine = options.tls_cert_file is not None
        remedy = _OUR_CERTIFICATE if mine else "with TLS it must speak 1.2 or newer"
        return UnavailableError(
            f"{place} closed the connection as it was opened", remedy=f"{remedy}; its log says more"
        )
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return UnavailableError(f"cannot reach {place}: {text}", remedy="is nats-server running there?")


def _refused_login(place: str, login: Login | None) -> ForbiddenError:
    reason = f" ({login.expired})" if login is not None and login.expired else ""
    remedy = "check user, password_file or credentials_file in the [nats] table"
    return ForbiddenError(f"{place} refused the credentials{reason}", remedy=remedy)


def _tls_error(place: str, options: LinkOptions, error: ssl.SSLError) -> LinkError:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"the certificate of {place} is not trusted: {error.verify_message}"
        return ForbiddenError(message, remedy=_verification_remedy(error.verify_code, options))
    reason = error.reason or "the handshake failed"
    if any(name in reason for name in _NO_COMMON_VERSION):
        return UnavailableError(
            f"no TLS with {place} ({reason})",
            remedy="it must speak TLS 1.2 or newer; tls_first is for handshake_first alone",
        )
    if "ALERT" in reason:
        return _refused_certificate(place, reason)
    return UnavailableError(f"TLS with {place} failed: {reason}", remedy="check its tls block")


def _refused_certificate(place: str, reason: str) -> ForbiddenError:
    return ForbiddenError(
        f"{place} refused our side of the TLS handshake ({reason})",
        remedy=_OUR_CERTIFICATE,
    )


def _verification_remedy(code: int, options: LinkOptions) -> str:
    if code in {_EXPIRED, _NOT_YET}:
        return "renew the server's certificate, or correct this machine's clock"
    if code in _WRONG_NAME:
        return "connect by a name or address that stands in the server's certificate"
    if options.tls_ca_file is None:
        return "set nats.tls_ca_file to the authority that signed it"
    return f"{options.tls_ca_file} must hold the authority that signed it"
