"""Reads the HTTP responses of an OAuth2 issuer within limits, whatever the issuer sends.

Invariants. At most :data:`MAX_BYTES` of a body are held, compressed or not, and decompression stops there.
:meth:`IssuerResponse.document` returns a JSON object without duplicate keys; anything else is an
:class:`InvalidResponse`. The caller limits the time, and follows no redirects: a secret is sent to the configured
places only.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, NamedTuple, NoReturn

import httpx2

MAX_BYTES = 2**20
"""Size limit of a response's body, decompressed."""
MAX_LIFETIME = 24 * 3600.0
"""Seconds after which a new token is fetched, whatever lifetime the issuer states."""
REQUEST_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}

_GZIP_OR_ZLIB = 47
"""zlib's wbits for both formats; the first bytes say which it is."""


class InvalidResponse(Exception):
    """The issuer sent a response that can't be used; the message says why, without any values."""


class IssuerResponse(NamedTuple):
    """An issuer's HTTP response."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def document(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises:
            InvalidResponse: it is not a JSON object.

        """
        try:
            # Always UTF-8 (RFC 8259): a charset in the header must not change the meaning.
            text = self.body.decode("utf-8-sig")
            found = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise InvalidResponse("sent an unreadable response: it is not JSON") from None
        if not isinstance(found, dict):
            raise InvalidResponse("sent an unreadable response: it is not a JSON object")
        return found


async def read_response(response: httpx2.Response) -> IssuerResponse:
    """Read a streamed response.

    Raises:
        InvalidResponse: the body is too long, or in an encoding that was not requested and whose size can't be limited.

    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return IssuerResponse(response.status_code, await _read_plain(response))
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return IssuerResponse(response.status_code, await _read_compressed(response))
    raise InvalidResponse("sent a response in a Content-Encoding that was not requested")


async def _read_plain(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        _check_size(body)
    return bytes(body)


async def _read_compressed(response: httpx2.Response) -> bytes:
    # Some proxies compress although "identity" is requested. httpx2 would decompress a whole chunk, without a limit.
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += decompressor.decompress(chunk, MAX_BYTES + 1 - len(body))
            _check_size(body)
    except zlib.error:
        raise InvalidResponse("sent a response that can't be decompressed") from None
    if not decompressor.eof:
        raise InvalidResponse("sent a response that can't be decompressed: it is incomplete")
    return bytes(body)


def token_lifetime(document: dict[str, Any], default: float) -> float:
    """Return a token's lifetime in seconds, from the ``expires_in`` of the response.

    Raises:
        InvalidResponse: it is not a number of seconds.

    """
    stated = document.get("expires_in")
    if stated is None or (stated == 0 and not isinstance(stated, bool)):
        return default
    try:
        # Some issuers send the number as text.
        seconds = float(stated) if isinstance(stated, int | float | str) and not isinstance(stated, bool) else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidResponse("sent an unreadable response: expires_in is not a number of seconds")
    return min(seconds, MAX_LIFETIME)


def _check_size(body: bytearray) -> None:
    if len(body) > MAX_BYTES:
        raise InvalidResponse(f"sent a response of more than {MAX_BYTES // 2**20} MiB")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
