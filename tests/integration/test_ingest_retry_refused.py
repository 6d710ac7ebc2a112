"""A refused app is retried every few minutes: it continues once the platform or the configuration is corrected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.errors import CredentialsRefused, UsageError
from eventstore.ingest.address import Address
from eventstore.ingest.context import IngestContext
from eventstore.ingest.credentials import FixedToken
from eventstore.ingest.follower import Follower, FollowerState
from eventstore.ingest.upstream import Upstream
from eventstore.locks import app_lock
from eventstore.postgres.lock_holder import find_holder
from eventstore.waits import Waits
from projections.cli.shared.status_tables import app_lines
from projections.inspecting.health import find_problems
from projections.inspecting.read_status import read_status
from projections.registry import Registry
from tests import store, wire
from tests.following import cursor_row, follower, following, ingest, quick_waits, stored_payloads
from tests.integration.test_ingest_refusals import Tokens
from tests.queries import fetch_row
from tests.scripted import ends_with, scripted_server, stays_open
from tests.store import APP, CHAT

Status = grpc.StatusCode
MESSAGES = [wire.event(event_id) for event_id, _ in zip(wire.ulids(), range(6), strict=False)]
OTHERS = [
    wire.event(event_id, recipient=wire.recipient("12300000002"))
    for event_id, _ in zip(wire.ulids(1_767_225_700_000), range(4), strict=False)
]
SOON = quick_waits(refused_retry=0.05)
LATER = quick_waits(refused_retry=600)
REFUSES = ends_with(Status.PERMISSION_DENIED, details="no such client")


async def refusal_of(conn: AsyncConnection, app: str = APP) -> tuple[Any, Any]:
    row = await fetch_row(conn, "SELECT refused_at, retry_at FROM eventstore.cursors WHERE app = %s", [app])
    assert row is not None
    return row[0], row[1]


async def status_lines(conn: AsyncConnection) -> list[str]:
    return app_lines(await read_status(conn, Registry({}, {})))


async def test_an_app_continues_once_the_platform_accepts_it(database_url: str, conn: AsyncConnection) -> None:
    async with scripted_server(*[REFUSES] * 3, stays_open(*MESSAGES)) as upstream:
        one = follower(database_url, upstream.address, waits=SOON)
        with capture_logs() as logs:
            async with following(one, waits=SOON) as running:
                await running.wait_until(lambda: one.stored == len(MESSAGES), "the events behind the refusals")
                await running.wait_until(lambda: one.refusal is None, "the end of the refusal")
                outcome = await running.stop()
    assert outcome.refused == {}
    assert len(upstream.calls) == 4
    assert [line["log_level"] for line in logs if line["event"] == "refused"] == ["error", "debug", "debug"]
    assert await stored_payloads(conn) == MESSAGES
    assert (await cursor_row(conn))["error"] is None
    assert await refusal_of(conn) == (None, None)


async def test_a_refusal_is_over_with_the_first_message_also_if_a_stop_follows_at_once(
    database_url: str, conn: AsyncConnection
) -> None:
    waits = quick_waits(refused_retry=0.05, settle=600, healthy_after=600)
    async with scripted_server(REFUSES, stays_open(*MESSAGES)) as upstream:
        one = follower(database_url, upstream.address, waits=waits)
        async with following(one, waits=waits) as running:
            await running.wait_until(lambda: one.stored == len(MESSAGES), "the events behind the refusal")
            outcome = await running.stop()
    assert outcome.refused == {}
    assert (await cursor_row(conn))["error"] is None
    assert await refusal_of(conn) == (None, None)


async def test_an_app_with_stored_events_continues_too(database_url: str, conn: AsyncConnection) -> None:
    async with scripted_server(ends_with(Status.NOT_FOUND, *MESSAGES[:3]), REFUSES, stays_open(*MESSAGES)) as upstream:
        one = follower(database_url, upstream.address, waits=SOON)
        async with following(one, waits=SOON) as running:
            await running.wait_until(lambda: one.stored == len(MESSAGES), "the events behind the refusals")
    assert await stored_payloads(conn) == MESSAGES


async def test_the_times_of_the_refusal_and_of_the_next_attempt_are_saved(
    database_url: str, conn: AsyncConnection
) -> None:
    async with scripted_server(REFUSES) as upstream:
        one = follower(database_url, upstream.address, waits=SOON)
        async with following(one, waits=SOON) as running:
            await running.wait_until(lambda: one.state is FollowerState.REFUSED, "the refusal")
            first, _ = await refusal_of(conn)
            await running.wait_until(lambda: len(upstream.calls) >= 4, "more attempts")
            since, _ = await refusal_of(conn)
    assert first is not None
    assert since == first


async def test_status_shows_since_when_an_app_is_refused_and_the_next_attempt(
    database_url: str, conn: AsyncConnection
) -> None:
    async with scripted_server(REFUSES) as upstream:
        one = follower(database_url, upstream.address, waits=LATER)
        async with following(one, waits=LATER) as running:
            await running.wait_until(lambda: one.state is FollowerState.REFUSED, "the refusal")
            since, again = await refusal_of(conn)
            assert timedelta(seconds=590) < again - datetime.now(UTC) <= timedelta(seconds=600)
            assert one.retry_at is not None
            assert one.state_text == f"refused, next attempt at {one.retry_at:%H:%M:%S}Z"

            async def let_go() -> bool:
                return await find_holder(conn, app_lock(APP)) is None

            await store.wait_until(let_go, "the release of the app")
            (line,) = await status_lines(conn)
            (problem,) = find_problems(await read_status(conn, Registry({}, {})))
            outcome = await running.stop()
    assert list(outcome.refused) == [APP]
    assert outcome.uncommitted == ()
    shown = [f"{moment.astimezone(UTC).isoformat()}".replace("+00:00", "Z") for moment in (since, again)]
    assert line.startswith(f"{APP} is followed by nobody; refused since {shown[0]}, next attempt at {shown[1]}: http")
    assert line.endswith("PERMISSION_DENIED: no such client")
    await conn.execute("UPDATE eventstore.cursors SET retry_at = now() - interval '1 hour'")
    assert "is overdue: no process follows it" in (await status_lines(conn))[0]
    assert problem == f"app {APP!r} is refused since {since.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}: {outcome.refused[APP]}"
    (problem,) = find_problems(await read_status(conn, Registry({}, {})))
    expected = f"app {APP!r} was refused at {since.astimezone(UTC):%Y-%m-%d %H:%M:%SZ} and nobody follows it: http"
    assert problem.startswith(expected)


async def test_with_refused_retry_0_a_refusal_ends_the_app(database_url: str, conn: AsyncConnection) -> None:
    waits = quick_waits(refused_retry=0)
    async with scripted_server(REFUSES) as upstream:
        async with following(follower(database_url, upstream.address, waits=waits), waits=waits) as running:
            outcome = await running.outcome()
        assert len(upstream.calls) == 1
    assert list(outcome.refused) == [APP]
    assert (await refusal_of(conn))[1] is None
    assert "the next attempt is made when a process follows it" in (await status_lines(conn))[0]


async def test_with_until_idle_a_refusal_ends_the_app(database_url: str) -> None:
    async with scripted_server(REFUSES, stays_open(*MESSAGES)) as upstream:
        outcome = await ingest(follower(database_url, upstream.address, waits=SOON), waits=SOON, until_idle=60)
        assert len(upstream.calls) == 1
    assert list(outcome.refused) == [APP]


async def test_another_process_may_take_over_while_a_refused_app_waits(
    database_url: str, conn: AsyncConnection
) -> None:
    async with scripted_server(REFUSES) as refusing, scripted_server(stays_open(*MESSAGES)) as upstream:
        first = follower(database_url, refusing.address, waits=LATER)
        second = follower(database_url, upstream.address)
        async with following(first, waits=LATER) as running:
            await running.wait_until(lambda: first.state is FollowerState.REFUSED, "the refusal")
            async with following(second) as other:
                await other.wait_until(lambda: second.stored == len(MESSAGES), "the second's events")
                assert first.state is FollowerState.REFUSED
    assert await stored_payloads(conn) == MESSAGES
    assert (await cursor_row(conn))["error"] is None


async def test_a_refused_follower_whose_app_was_taken_over_stands_by(database_url: str) -> None:
    waits = quick_waits(refused_retry=0.3)
    async with scripted_server(REFUSES) as refusing, scripted_server(stays_open(*MESSAGES)) as upstream:
        first = follower(database_url, refusing.address, waits=waits)
        second = follower(database_url, upstream.address)
        async with following(second) as other:
            await other.wait_until(lambda: second.stored == len(MESSAGES), "the second's events")
            async with following(first, waits=waits) as running:
                await running.wait_until(lambda: first.state is FollowerState.STANDING_BY, "standing by")
                await other.stop()
                await running.wait_until(lambda: first.state is FollowerState.REFUSED, "the refusal")
                third = follower(database_url, upstream.address)
                async with following(third) as taking:
                    await taking.wait_until(lambda: third.duplicates, "the duplicates of the third")
                    await running.wait_until(lambda: first.state is FollowerState.STANDING_BY, "standing by again")


async def test_the_other_apps_of_the_process_continue(database_url: str, conn: AsyncConnection) -> None:
    async with scripted_server(REFUSES) as refusing, scripted_server(stays_open(*MESSAGES)) as upstream:
        bad = follower(database_url, refusing.address, app="bad", waits=SOON)
        good = follower(database_url, upstream.address, app="good", waits=SOON)
        async with following(bad, good, waits=SOON) as running:
            await running.wait_until(lambda: len(refusing.calls) >= 5, "attempts")
            await running.wait_until(lambda: good.stored == len(MESSAGES), "the other's events")
            outcome = await running.stop()
        assert len(upstream.calls) == 1
    assert list(outcome.refused) == ["bad"]
    assert await stored_payloads(conn, "good") == MESSAGES


async def test_two_apps_of_one_stream_continue_once_each_has_its_own(database_url: str, conn: AsyncConnection) -> None:
    async with scripted_server(stays_open(*MESSAGES)) as upstream, scripted_server(stays_open(*OTHERS)) as own:
        first = follower(database_url, upstream.address, app="first")
        configured = [upstream.address]

        def reload() -> Upstream:
            return Upstream("second", Address.parse(configured[0]), FixedToken("token"), CHAT)

        second = Follower(IngestContext(database_url, SOON), reload(), reload=reload)
        async with following(first) as running:
            await running.wait_until(lambda: first.stored == len(MESSAGES), "the first's events")
            async with following(second, waits=SOON) as other:
                await other.wait_until(lambda: second.state is FollowerState.REFUSED, "the refusal")
                assert "two apps follow the same stream" in (second.refusal or "")
                configured[0] = own.address
                await other.wait_until(lambda: second.stored == len(OTHERS), "the events of its own stream")
    assert await stored_payloads(conn, "second") == OTHERS
    assert await stored_payloads(conn, "first") == MESSAGES


async def test_the_configuration_is_loaded_again_and_an_error_in_it_is_a_refusal(database_url: str) -> None:
    mistakes: list[Exception] = [UsageError("projections.toml is not TOML"), LookupError("a mistake of ours")]
    refusals: list[str | None] = []
    async with scripted_server(REFUSES) as refusing, scripted_server(stays_open(*MESSAGES)) as upstream:

        def reload() -> Upstream:
            refusals.append(one.refusal)
            if mistakes:
                raise mistakes.pop(0)
            return Upstream(APP, Address.parse(upstream.address), FixedToken("token"), CHAT)

        refused = Upstream(APP, Address.parse(refusing.address), FixedToken("token"), CHAT)
        one = Follower(IngestContext(database_url, SOON), refused, reload=reload)
        async with following(one, waits=SOON) as running:
            await running.wait_until(
                lambda: one.stored == len(MESSAGES), "the events after the configuration is corrected"
            )
        assert len(refusing.calls) == 1
    assert [str(text).rpartition(": ")[2] for text in refusals] == [
        "no such client",
        "projections.toml is not TOML",
        "a mistake of ours",
    ]


async def test_an_issuer_that_refused_is_called_again(database_url: str) -> None:
    refusal = CredentialsRefused("the issuer refuses the client")
    tokens = Tokens(refusal, refusal, "token")
    async with scripted_server(stays_open(*MESSAGES)) as upstream:
        one = follower(database_url, upstream.address, tokens=tokens, waits=SOON)
        async with following(one, waits=SOON) as running:
            await running.wait_until(lambda: one.stored == len(MESSAGES), "the events")


async def test_a_transient_error_after_a_refusal_is_no_refusal(database_url: str, conn: AsyncConnection) -> None:
    waits = quick_waits(refused_retry=0.05, backoff_first=30, backoff_cap=60)
    async with scripted_server(REFUSES, ends_with(Status.UNAVAILABLE)) as upstream:
        one = follower(database_url, upstream.address, waits=waits)
        async with following(one, waits=waits) as running:

            async def unavailable() -> bool:
                return "UNAVAILABLE" in str((await cursor_row(conn))["error"])

            await running.wait_until(lambda: len(upstream.calls) == 2, "the second attempt")
            await store.wait_until(unavailable, "the other error")
            assert await refusal_of(conn) == (None, None)


@pytest.mark.parametrize("waits", [SOON, LATER], ids=["retried soon", "retried later"])
async def test_a_refused_follower_stops_at_once(database_url: str, waits: Waits) -> None:
    async with scripted_server(REFUSES) as upstream:
        one = follower(database_url, upstream.address, waits=waits)
        async with following(one, waits=waits) as running:
            await running.wait_until(lambda: one.state is FollowerState.REFUSED, "the refusal")
            outcome = await running.stop()
    assert list(outcome.refused) == [APP]
