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
"""Size limit of an answer's body, decoded."""
MAX_LIFETIME = 24 * 3600.0
"""Seconds after which a token is fetched anew, whatever lifetime the issuer states."""
REQUEST_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}

_GZIP_OR_ZLIB = 47
"""zlib's wbits for a stream of either kind, told apart by its first bytes."""


class InvalidResponse(Exception):
    """The issuer sent something that can't be used; the message says what, without any of the values."""


class IssuerResponse(NamedTuple):
    """An issuer's HTTP answer."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def document(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises:
            InvalidResponse: it isn't one.

        """
        try:
            # UTF-8 whatever the header says (RFC 8259): a charset must not change what is read.
            text = self.body.decode("utf-8-sig")
            found = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise InvalidResponse("sends an answer that can't be read: it is not JSON") from None
        if not isinstance(found, dict):
            raise InvalidResponse("sends an answer that can't be read: it is not a JSON object")
        return found


async def read_response(response: httpx2.Response) -> IssuerResponse:
    """Read a streamed response.

    Raises:
        InvalidResponse: the body is too long, or encoded in a way we did not ask for and can't bound.

    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return IssuerResponse(response.status_code, await _read_plain(response))
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return IssuerResponse(response.status_code, await _read_compressed(response))
    raise InvalidResponse("sends an answer in a Content-Encoding that we did not ask for")


async def _read_plain(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        _check_size(body)
    return bytes(body)


async def _read_compressed(response: httpx2.Response) -> bytes:
    # Some proxies compress although we ask for identity. httpx2 would decompress a whole chunk, without a limit.
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += decompressor.decompress(chunk, MAX_BYTES + 1 - len(body))
            _check_size(body)
    except zlib.error:
        raise InvalidResponse("sends an answer that can't be decompressed") from None
    if not decompressor.eof:
        raise InvalidResponse("sends an answer that can't be decompressed: it is incomplete")
    return bytes(body)


def token_lifetime(document: dict[str, Any], default: float) -> float:
    """Return the seconds that a token lives, by the ``expires_in`` of its answer.

    Raises:
        InvalidResponse: it is no number of seconds.

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
        raise InvalidResponse("sends an answer that can't be read: expires_in is not a number of seconds")
    return min(seconds, MAX_LIFETIME)


def _check_size(body: bytearray) -> None:
    if len(body) > MAX_BYTES:
        raise InvalidResponse(f"sends an answer of more than {MAX_BYTES // 2**20} MiB")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
