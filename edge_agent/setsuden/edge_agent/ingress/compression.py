"""gzip and deflate of bodies, within bounds."""

from __future__ import annotations

import gzip
import re
import zlib

from setsuden.pipelines import codec
from setsuden.schemas.errors import RequestRefusedError

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""What zlib is told about the frame around the data."""
_SERVED = (("accept-encoding", "gzip, deflate"),)


def check(encoding: str) -> None:
    """Raises RequestRefusedError (415) for a Content-Encoding that is not served."""
    if encoding and encoding != "identity" and encoding not in _WINDOW:
        raise RequestRefusedError(
            f"content-encoding {encoding[:40]!r} is not served",
            http_status=415,
            field="content-encoding",
            remedy="send gzip, deflate, or the body as it is",
            headers=_SERVED,
        )


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before its Content-Encoding; never more than ``limit`` bytes are made.

    Raises PayloadTooLargeError or RequestRefusedError.
    """
    if encoding not in _WINDOW:
        return body
    inflater = zlib.decompressobj(_WINDOW[encoding])
    try:
        data = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise _broken(encoding) from error
    codec.check_size(len(data), limit)
    if not inflater.eof or inflater.unused_data:
        raise _broken(encoding)
    return data


def _broken(encoding: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"the body is no whole {encoding} stream", http_status=400, field="content-encoding"
    )


def accepted(header: str) -> str | None:
    """The encoding that a client asked for with Accept-Encoding, or None."""
    for part in header.lower().split(","):
        name, _, parameters = part.strip().partition(";")
        refused = re.fullmatch(r"\s*q=0(?:\.0*)?\s*", parameters)
        if name.strip() in {"gzip", "deflate"} and refused is None:
            return name.strip()
    return None


def deflated(body: bytes, encoding: str) -> bytes:
    """The body in this encoding, fast rather than small."""
    return gzip.compress(body, 1, mtime=0) if encoding == "gzip" else zlib.compress(body, 1)
