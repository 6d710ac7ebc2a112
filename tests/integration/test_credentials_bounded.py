"""Arbitrary responses of an issuer: memory and time stay limited, and the app retries."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest

from eventstore.errors import CredentialsRefused, IssuerUnavailable
from eventstore.ingest.client_credentials import ClientCredentials
from eventstore.ingest.issuer_response import MAX_BYTES
from eventstore.redaction import redact as redaction
from eventstore.waits import Waits
from tests.certificates import NO_AUTHORITIES
from tests.fix_issuer import CLIENT_ID, CLIENT_SECRET, TOKEN_PATH, Answer, Issuer

API = "https://api.example.com"


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", {})


@cache
def waits_of(seconds: float) -> Waits:
    return Waits(issuer=seconds)


def client_of(issuer: Issuer, seconds: float = 60) -> ClientCredentials:
    return ClientCredentials(issuer.url, CLIENT_ID, CLIENT_SECRET, API, waits=waits_of(seconds), tls=NO_AUTHORITIES)


def document_of(issuer: Issuer) -> dict[str, object]:
    return {"issuer": issuer.url, "token_endpoint": issuer.url + TOKEN_PATH, "access_token": "a-token"}


def set_response(issuer: Issuer, place: str, answer: Answer) -> None:
    if place == "discovery":
        issuer.discovery = answer
    else:
        issuer.answers.append(answer)


async def error_for(issuer: Issuer, place: str, answer: Answer, seconds: float = 60) -> str:
    """Return the error that a response in this place causes; the next attempt gets a token."""
    set_response(issuer, place, answer)
    client = client_of(issuer, seconds)
    with pytest.raises(IssuerUnavailable) as caught:
        await client.token()
    issuer.discovery = None
    assert await client.token() == issuer.tokens[0]
    assert len(str(caught.value)) < 500
    return str(caught.value)


def bomb(mebibytes: int = 960) -> bytes:
    """Return about a gigabyte of spaces, compressed with gzip.

    A full flush makes each mebibyte independent of those before it, so it is compressed once.
    """
    mebibyte, checksum = b" " * 2**20, 0
    compressor = zlib.compressobj(9, wbits=-15)
    compressed = compressor.compress(mebibyte) + compressor.flush(zlib.Z_FULL_FLUSH)
    for _ in range(mebibytes):
        checksum = zlib.crc32(mebibyte, checksum)
    trailer = checksum.to_bytes(4, "little") + (mebibytes << 20).to_bytes(4, "little")
    return gzip.compress(b"")[:10] + compressed * mebibytes + compressor.flush() + trailer


def test_the_bomb_is_valid() -> None:
    assert gzip.decompress(bomb(3)) == b" " * 3 * 2**20


places = pytest.mark.parametrize("place", ["discovery", "token"])


@places
async def test_a_compressed_response_is_decompressed_up_to_the_limit_only(issuer: Issuer, place: str) -> None:
    answer = Answer(body=bomb(), headers=(("Content-Encoding", "gzip"),))
    assert "more than 1 MiB" in await error_for(issuer, place, answer)


@places
async def test_a_long_response_is_read_up_to_the_limit_only(issuer: Issuer, place: str) -> None:
    assert "more than 1 MiB" in await error_for(issuer, place, Answer(body=b" " * (MAX_BYTES + 1)))


@places
async def test_a_response_as_long_as_the_limit_is_read(issuer: Issuer, place: str) -> None:
    raw = json.dumps(document_of(issuer)).encode()
    set_response(issuer, place, Answer(body=raw + b" " * (MAX_BYTES - len(raw))))
    assert await client_of(issuer).token()


@places
@pytest.mark.parametrize("how", ["gzip", "deflate"])
async def test_a_compressed_response_within_the_limit_is_read(issuer: Issuer, place: str, how: str) -> None:
    raw = json.dumps(document_of(issuer)).encode()
    compress: Callable[[bytes], bytes] = gzip.compress if how == "gzip" else zlib.compress
    set_response(issuer, place, Answer(body=compress(raw), headers=(("Content-Encoding", how),)))
    assert await client_of(issuer).token()
    assert {request.headers["accept-encoding"] for request in issuer.requests} == {"identity"}


@places
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"[" * 500_000, ()),
        (b'{"a":' * 100_000, ()),
        (b'{"expires_in": ' + b"9" * 1_000_000 + b"}", ()),
        (b'{"expires_in": 1e' + b"9" * 1_000_000 + b"}", ()),
        (b'{"access_token": NaN}', ()),
        (b'{"access_token": "a", "access_token": "b", "issuer": "c", "issuer": "d"}', ()),
        (b"\xff\xfe\x00garbage", ()),
        ('{"access_token": "a"}'.encode("utf-16"), (("Content-Type", "application/json; charset=utf-16"),)),
        (b"+AHs-+AH0-", (("Content-Type", "application/json; charset=utf-7"),)),
        (b"{}", (("Content-Type", "application/json; charset=no-such-charset"),)),
        (b"", ()),
        (b"null", ()),
        (b'"text"', ()),
        (b"{}", (("Content-Encoding", "br"),)),
        (b"{}", (("Content-Encoding", "gzip, gzip"),)),
        (b"not gzip", (("Content-Encoding", "gzip"),)),
        (gzip.compress(b"{}")[:-9], (("Content-Encoding", "gzip"),)),
        (b"{}", (("X-Long", "x" * 300_000),)),
        (b"{}", tuple((f"X-{number}", "x") for number in range(20_000))),
        (b"{}", (("Set-Cookie", "\x01=; expires=Thu, 99 Foo 99999 99:99:99"), ("Content-Type", "\xff"))),
    ],
    ids=range(20),
)
async def test_an_unreadable_response_is_retried(
    issuer: Issuer, place: str, body: bytes, headers: tuple[tuple[str, str], ...]
) -> None:
    await error_for(issuer, place, Answer(body=body, headers=headers))


ODD = [None, True, 7, -1, 1.5, "", "text", [], [1], {}, {"a": 1}, "\ud800", "\x00"]


@pytest.mark.parametrize("key", ["issuer", "token_endpoint", "token_endpoint_auth_methods_supported"])
@pytest.mark.parametrize("value", ODD, ids=repr)
async def test_any_value_in_a_discovery_document_is_a_token_a_refusal_or_retried(
    issuer: Issuer, key: str, value: object
) -> None:
    issuer.discovery = Answer(body=document_of(issuer) | {key: value})
    with suppress(IssuerUnavailable, CredentialsRefused):
        assert await client_of(issuer).token()


@pytest.mark.parametrize("key", ["access_token", "expires_in", "expires_at", "token_type", "error"])
@pytest.mark.parametrize("value", ODD, ids=repr)
async def test_any_value_in_a_response_of_the_token_endpoint_is_a_token_a_refusal_or_retried(
    issuer: Issuer, key: str, value: object
) -> None:
    issuer.answers.append(Answer(400 if key == "error" else 200, document_of(issuer) | {key: value}))
    with suppress(IssuerUnavailable, CredentialsRefused):
        assert await client_of(issuer).token()


@pytest.mark.parametrize("lifetime", [True, False, -1, "nan", "-inf", "inf", "soon", [1], {"a": 1}])
async def test_a_lifetime_that_is_not_a_number_of_seconds_is_retried(issuer: Issuer, lifetime: object) -> None:
    answer = Answer(body=document_of(issuer) | {"expires_in": lifetime})
    assert "expires_in" in await error_for(issuer, "token", answer)


async def test_a_token_that_no_server_accepts_in_a_header_is_retried(issuer: Issuer) -> None:
    answer = Answer(body=document_of(issuer) | {"access_token": "a" * 100_000})
    assert "without an access_token" in await error_for(issuer, "token", answer)


@places
async def test_a_response_that_arrives_byte_by_byte_times_out(issuer: Issuer, place: str) -> None:
    answer = Answer(drips=True)
    assert "does not answer within 2 s" in await error_for(issuer, place, answer, seconds=2)


@places
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(issuer: Issuer, place: str, status: int) -> None:
    set_response(issuer, place, Answer(status, b"", (("Location", issuer.url + "/elsewhere"),)))
    with pytest.raises(CredentialsRefused, match=f"HTTP {status}") as caught:
        await client_of(issuer).token()
    assert caught.value.by_issuer is False
    assert not [request for request in issuer.requests if request.path.endswith("/elsewhere")]
