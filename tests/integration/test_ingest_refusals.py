"""Refusals and retries: what ends an app, what is retried, and after how long."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import grpc
import pytest
from psycopg import AsyncConnection

from eventstore.errors import CredentialsRefused, IssuerUnavailable
from eventstore.ingest import stream_reader
from tests import wire
from tests.following import cursor_row, follower, following, ingest, quick_waits, stored_payloads
from tests.scripted import ends_with, scripted_server, stays_open
from tests.store import APP, PCS

Status = grpc.StatusCode
FINAL = [Status.PERMISSION_DENIED, Status.NOT_FOUND, Status.INVALID_ARGUMENT]
TRANSIENT = set(Status) - {Status.OK, Status.UNAUTHENTICATED, Status.UNIMPLEMENTED, *FINAL}
MESSAGES = [wire.event(event_id) for event_id, _ in zip(wire.ulids(), range(6), strict=False)]
AT_ONCE = {"healthy_after": 1e-9}
"""Lower than a setting may be: any stream that was open counts as healthy."""


class RecordedSleeps:
    """Replaces ``asyncio`` in a module: records the length of each sleep, and doesn't sleep."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> RecordedSleeps:
    """Records the back-offs of all sessions, which take no time."""
    recorder = RecordedSleeps()
    monkeypatch.setattr(stream_reader, "asyncio", recorder)
    return recorder


class Tokens:
    """Returns a list of tokens: each renewal changes to the next one."""

    def __init__(self, *tokens: str | Exception, renewable: bool = True) -> None:
        self._tokens = list(tokens)
        self._renewable = renewable
        self.renewed = 0

    async def token(self) -> str:
        token = self._tokens[min(self.renewed, len(self._tokens) - 1)]
        if isinstance(token, Exception):
            if len(self._tokens) > 1:
                self._tokens.pop(0)
            raise token
        return token

    async def renew(self) -> bool:
        self.renewed += 1
        return self._renewable


@pytest.mark.parametrize("code", FINAL, ids=lambda code: code.name)
async def test_a_final_status_ends_the_app_with_a_message_and_earlier_events_are_committed(
    database_url: str, conn: AsyncConnection, code: grpc.StatusCode
) -> None:
    async with scripted_server(ends_with(code, *MESSAGES[:3], details="because of 12300000001")) as upstream:
        outcome = await ingest(follower(database_url, upstream.address), until_idle=60)
    sentence = outcome.refused[APP]
    assert sentence.startswith(f"{upstream.address} refuses the stream: {code.name}: because of")
    assert "12300000001" not in sentence
    assert len(upstream.calls) == 1
    assert await stored_payloads(conn) == MESSAGES[:3]
    assert (await cursor_row(conn))["error"] == sentence


async def test_every_transient_status_is_retried(
    database_url: str, conn: AsyncConnection, sleeps: RecordedSleeps
) -> None:
    scripts = [ends_with(code) for code in sorted(TRANSIENT, key=str)]
    async with scripted_server(*scripts, stays_open(*MESSAGES)) as upstream:
        outcome = await ingest(follower(database_url, upstream.address))
    assert (outcome.stored, outcome.refused) == (len(MESSAGES), {})
    assert len(upstream.calls) == len(TRANSIENT) + 1
    assert len(sleeps.waits) == len(TRANSIENT)
    assert await stored_payloads(conn) == MESSAGES


@pytest.mark.parametrize(
    ("trailing", "waited"),
    [
        (("retry-after", "120"), 120.0),
        (("retry-after-ms", "45500"), 45.5),
        (("retry-after", "999999"), 3600.0),
        (("retry-after", "soon"), None),
        (("retry-after", "0"), None),
    ],
)
async def test_the_wait_that_the_upstream_asks_for_is_respected(
    database_url: str, sleeps: RecordedSleeps, trailing: tuple[str, str], waited: float | None
) -> None:
    async with scripted_server(
        ends_with(Status.RESOURCE_EXHAUSTED, trailing=[trailing]), stays_open(*MESSAGES)
    ) as upstream:
        outcome = await ingest(follower(database_url, upstream.address))
    assert outcome.stored == len(MESSAGES)
    (wait,) = sleeps.waits
    assert wait == waited or (waited is None and wait <= 0.004)


async def test_the_back_off_doubles_to_its_cap_while_calls_fail_and_starts_over_after_a_new_event(
    database_url: str, sleeps: RecordedSleeps
) -> None:
    waits = quick_waits(backoff_first=1, backoff_cap=16)
    failures = [ends_with(Status.UNAVAILABLE)] * 6
    async with scripted_server(
        *failures, ends_with(Status.UNAVAILABLE, *MESSAGES[:2]), *failures[:2], stays_open(*MESSAGES)
    ) as upstream:
        await ingest(follower(database_url, upstream.address, waits=waits))
    longest = [1, 2, 4, 8, 16, 16, 1, 2, 4]
    assert len(sleeps.waits) == len(longest)
    assert all(most / 2 <= wait <= most for wait, most in zip(sleeps.waits, longest, strict=True))


async def test_a_call_that_fails_slowly_is_not_a_healthy_connection(database_url: str, sleeps: RecordedSleeps) -> None:
    async with scripted_server(stays_open()) as upstream:
        address = upstream.address
    waits = quick_waits(backoff_first=1, backoff_cap=1024).model_copy(update=AT_ONCE)
    one = follower(database_url, address, waits=waits)
    async with following(one) as running:
        await running.wait_until(lambda: len(sleeps.waits) >= 6, "six failed calls")
    assert all(later > earlier for earlier, later in pairwise(sleeps.waits[:6]))


async def test_a_stream_that_was_open_long_enough_was_healthy(database_url: str, sleeps: RecordedSleeps) -> None:
    waits = quick_waits(backoff_first=1, backoff_cap=1024).model_copy(update=AT_ONCE)
    async with scripted_server(*[ends_with(Status.UNAVAILABLE)] * 6, stays_open(*MESSAGES)) as upstream:
        await ingest(follower(database_url, upstream.address, waits=waits))
    assert all(wait <= 1 for wait in sleeps.waits)


async def test_there_is_a_short_back_off_after_normal_ends_too(database_url: str, sleeps: RecordedSleeps) -> None:
    waits = quick_waits(backoff_first=1, backoff_cap=1024, normal_end_cap=2)
    async with scripted_server(*[ends_with(Status.OK)] * 5, stays_open(*MESSAGES)) as upstream:
        one = follower(database_url, upstream.address, waits=waits)
        async with following(one, waits=waits) as running:
            await running.wait_until(lambda: one.stored == len(MESSAGES), "the events of the last call")
    assert [wait <= 2 for wait in sleeps.waits] == [True] * 5


async def test_a_refused_token_is_renewed_once_and_accepted(database_url: str, conn: AsyncConnection) -> None:
    tokens = Tokens("old", "new")
    async with scripted_server(ends_with(Status.UNAUTHENTICATED), stays_open(*MESSAGES)) as upstream:
        outcome = await ingest(follower(database_url, upstream.address, tokens=tokens))
    assert (outcome.stored, outcome.refused) == (len(MESSAGES), {})
    assert [call.token for call in upstream.calls] == ["old", "new"]
    assert (await cursor_row(conn))["error"] is None


async def test_a_token_refused_twice_ends_the_app(database_url: str, conn: AsyncConnection) -> None:
    tokens = Tokens("old", "new", "newer")
    async with scripted_server(ends_with(Status.UNAUTHENTICATED, details="expired")) as upstream:
        outcome = await ingest(follower(database_url, upstream.address, tokens=tokens), until_idle=60)
    assert outcome.refused[APP] == f"{upstream.address} refuses the token: UNAUTHENTICATED: expired"
    assert [call.token for call in upstream.calls] == ["old", "new"]
    assert (await cursor_row(conn))["error"] == outcome.refused[APP]


async def test_a_token_that_cannot_be_renewed_is_not_sent_twice(database_url: str) -> None:
    async with scripted_server(ends_with(Status.UNAUTHENTICATED)) as upstream:
        outcome = await ingest(
            follower(database_url, upstream.address, tokens=Tokens("only", renewable=False)), until_idle=60
        )
    assert list(outcome.refused) == [APP]
    assert len(upstream.calls) == 1


async def test_a_transient_failure_in_between_allows_no_further_renewal(database_url: str) -> None:
    tokens = Tokens("a", "b", "c")
    refused = ends_with(Status.UNAUTHENTICATED)
    async with scripted_server(refused, ends_with(Status.UNAVAILABLE), refused) as upstream:
        outcome = await ingest(follower(database_url, upstream.address, tokens=tokens), until_idle=60)
    assert list(outcome.refused) == [APP]
    assert [call.token for call in upstream.calls][-1] == "b"


async def test_each_token_that_was_accepted_may_be_refused_later(database_url: str, conn: AsyncConnection) -> None:
    cut_at_once = [ends_with(Status.UNAUTHENTICATED, message) for message in MESSAGES[:4]]
    tokens = Tokens(*"abcde")
    async with scripted_server(*cut_at_once, stays_open(*MESSAGES)) as upstream:
        outcome = await ingest(follower(database_url, upstream.address, tokens=tokens))
    assert (outcome.refused, tokens.renewed) == ({}, 4)
    assert sorted(await stored_payloads(conn)) == sorted(MESSAGES)


async def test_an_issuer_that_refuses_ends_the_app_and_an_unavailable_one_is_retried(database_url: str) -> None:
    async with scripted_server(stays_open(*MESSAGES)) as upstream:
        away = Tokens(IssuerUnavailable("away"), IssuerUnavailable("away"), "token")
        assert (await ingest(follower(database_url, upstream.address, tokens=away))).stored == len(MESSAGES)
        refused = Tokens(CredentialsRefused("the issuer refuses the client"))
        outcome = await ingest(follower(database_url, upstream.address, tokens=refused), until_idle=60)
    assert outcome.refused == {APP: "the issuer refuses the client"}


async def test_a_message_above_grpc_s_size_limit_does_not_end_the_app(database_url: str, conn: AsyncConnection) -> None:
    large = wire.event(
        MESSAGES[0][2:28], more=wire.bytes_field(5000, bytes(5 * 2**20))
    )  # gRPC's default limit is 4 MiB
    async with scripted_server(ends_with(Status.OK, wire.frame(large)), stays_open()) as upstream:
        await ingest(follower(database_url, upstream.address, contract=PCS), until_idle=3)
    assert await stored_payloads(conn) == [large]
