"""Proxies that answer instead of the platform: once a stream has worked, none of their answers ends an app."""

from __future__ import annotations

import grpc
import pytest
from psycopg import AsyncConnection

from eventstore.contracts import Contract
from eventstore.errors import CredentialsRefused
from tests import wire
from tests.following import cursor_row, follower, following, ingest, stored_payloads
from tests.integration.test_ingest_refusals import Tokens
from tests.intermediary import HTML, Reply, goaway, http1, http2, intermediary_for, reset
from tests.scripted import ends_with, scripted_server, stays_open
from tests.store import APP, CHAT

Status = grpc.StatusCode
MESSAGES = [wire.event(event_id) for event_id, _ in zip(wire.ulids(), range(6), strict=False)]
TYPE = ("content-type", "text/html")
STATUSES = (400, 401, 403, 404, 407, 429, 500, 502, 503, 504)
GRPC = ("content-type", "application/grpc")

REPLIES: dict[str, list[Reply]] = {
    "HTTP statuses": [http2(status, TYPE) for status in STATUSES],
    "HTTP statuses with a page": [http2(status, TYPE, body=HTML) for status in STATUSES],
    "HTTP/1.1": [http1(status) for status in STATUSES],
    "answers that are no refusal": [
        http2(200, TYPE, body=HTML),
        http2(302, ("location", "https://login.example")),
        http2(429, ("retry-after", "0")),
        http2(200, GRPC),
        http2(200, GRPC, ("grpc-status", "77")),
    ],
    "RST_STREAM": [reset(code) for code in range(14)],
    # Not 13: gRPC 1.85 aborts the process on it ("UNREACHABLE CODE" in its http2_status.h).
    "GOAWAY": [goaway(code) for code in (0, 2, 11, 12)],
}


@pytest.mark.parametrize("kind", REPLIES)
async def test_once_a_stream_has_worked_their_answers_are_retried(
    database_url: str, conn: AsyncConnection, kind: str
) -> None:
    tokens = Tokens("only", renewable=False)
    async with (
        scripted_server(ends_with(Status.UNAVAILABLE, *MESSAGES[:2]), stays_open(*MESSAGES)) as upstream,
        intermediary_for(upstream.port) as front,
    ):
        front.replies = [None, *REPLIES[kind]]
        one = follower(database_url, front.address, tokens=tokens)
        async with following(one) as running:
            await running.wait_until(lambda: one.stored == len(MESSAGES), "the events behind the proxy's answers")
            outcome = await running.stop()
        assert front.answered == len(REPLIES[kind])
    assert outcome.refused == {}
    assert await stored_payloads(conn) == MESSAGES
    assert (await cursor_row(conn))["error"] is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "answered HTTP 401 without a gRPC status"),
        (403, "answered HTTP 403 without a gRPC status"),
        (404, "answered HTTP 404 without a gRPC status"),
    ],
)
async def test_at_first_contact_their_answers_are_a_refusal(database_url: str, status: int, words: str) -> None:
    async with scripted_server(stays_open(*MESSAGES)) as upstream, intermediary_for(upstream.port) as front:
        front.replies = [http2(status)] * 3
        outcome = await ingest(follower(database_url, front.address), until_idle=60)
    assert words in outcome.refused[APP]


@pytest.mark.parametrize(
    "code", [Status.PERMISSION_DENIED, Status.NOT_FOUND, Status.INVALID_ARGUMENT, Status.UNAUTHENTICATED]
)
async def test_the_platform_s_own_status_is_a_refusal_at_any_time(database_url: str, code: grpc.StatusCode) -> None:
    tokens = Tokens("only", renewable=False)
    async with (
        scripted_server(ends_with(Status.OK, *MESSAGES), ends_with(code, details="said by the platform")) as upstream,
        intermediary_for(upstream.port) as front,
    ):
        outcome = await ingest(follower(database_url, front.address, tokens=tokens), until_idle=60)
    assert f"{code.name}: said by the platform" in outcome.refused[APP]
    assert outcome.stored == len(MESSAGES)


async def test_a_grpc_status_that_a_proxy_sends_counts_as_the_platforms(database_url: str) -> None:
    reply = http2(403, GRPC, ("grpc-status", "7"), ("grpc-message", "no"))
    async with scripted_server(ends_with(Status.OK, *MESSAGES)) as upstream, intermediary_for(upstream.port) as front:
        front.replies = [None, reply]
        outcome = await ingest(follower(database_url, front.address), until_idle=60)
    assert "PERMISSION_DENIED: no" in outcome.refused[APP]


async def test_a_token_is_renewed_once_when_a_gateway_refuses_it_by_http(
    database_url: str, conn: AsyncConnection
) -> None:
    tokens = Tokens("old", "new", "newer")
    async with (
        scripted_server(ends_with(Status.UNAVAILABLE, *MESSAGES[:2]), stays_open(*MESSAGES)) as upstream,
        intermediary_for(upstream.port) as front,
    ):
        front.replies = [None, *[http2(401)] * 3]
        one = follower(database_url, front.address, tokens=tokens)
        async with following(one) as running:
            await running.wait_until(lambda: one.stored == len(MESSAGES), "the events behind the gateway's answers")
        assert [call.token for call in upstream.calls] == ["old", "new"]
    assert tokens.renewed == 1
    assert await stored_payloads(conn) == MESSAGES


@pytest.mark.parametrize("by_issuer", [True, False])
async def test_an_http_status_of_the_issuer_s_proxy_is_retried_too_once_a_stream_has_worked(
    database_url: str, by_issuer: bool
) -> None:
    tokens = Tokens("first")
    async with scripted_server(ends_with(Status.UNAVAILABLE, *MESSAGES[:2]), stays_open(*MESSAGES)) as upstream:
        assert (await ingest(follower(database_url, upstream.address, tokens=tokens))).stored == len(MESSAGES)
        refusal = CredentialsRefused("the issuer refuses: HTTP 403", by_issuer=by_issuer)
        again = Tokens(refusal, refusal, "second")
        one = follower(database_url, upstream.address, tokens=again)
        async with following(one, until_idle=0.2) as running:
            outcome = await running.outcome()
    assert list(outcome.refused) == ([APP] if by_issuer else [])


async def test_a_contract_that_worked_once_is_remembered_across_processes(
    database_url: str, conn: AsyncConnection
) -> None:
    async with scripted_server(stays_open(*MESSAGES[:2]), stays_open(*MESSAGES)) as upstream:
        async with intermediary_for(upstream.port) as front:
            await ingest(follower(database_url, front.address), until_idle=0.1)
        async with intermediary_for(upstream.port) as front:
            front.replies = [http2(403), http2(401), http2(404)]
            one = follower(database_url, front.address, contract=None, tokens=Tokens("only", renewable=False))
            async with following(one) as running:
                await running.wait_until(
                    lambda: one.stored == len(MESSAGES) - 2, "the events behind the proxy's answers"
                )
            assert front.answered == 3
    assert Contract((await cursor_row(conn))["contract"]) is CHAT
    assert await stored_payloads(conn) == MESSAGES
