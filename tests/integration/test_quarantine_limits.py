"""Garbage can't fill the disk: the quarantine of an app is limited, samples are kept, every message is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.appending import quarantine as quarantining
from eventstore.appending.append import Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.quarantine import Rejected
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits, load_quarantine_limits
from eventstore.errors import UsageError
from eventstore.ingest.context import IngestContext
from eventstore.transfer.export import export_events
from eventstore.transfer.importing import import_events
from projections.cli.shared.status_tables import app_lines
from projections.inspecting.health import find_problems
from projections.inspecting.read_status import read_status
from projections.inspecting.status import AppStatus
from projections.registry import Registry
from tests import store, wire
from tests.following import follower, following
from tests.queries import fetch_all, fetch_row
from tests.scripted import scripted_server, stays_open
from tests.store import APP, CHAT, conflicting_event, cursor_of, garbage, new_events, quarantine_rows

TWENTY = QuarantineLimits(max_rows=20, max_bytes=10**6)
"""Eighteen rows, and two more for samples."""

Appending = Callable[[QuarantineLimits], AbstractAsyncContextManager[Appender]]


@pytest.fixture
def appending(database_url: str) -> Appending:
    """Yield an appender with these limits."""

    @asynccontextmanager
    async def opened(limits: QuarantineLimits) -> AsyncIterator[Appender]:
        async with store.connection(database_url) as conn:
            yield Appender(conn, store.QUICK, limits)

    return opened


async def counts(conn: AsyncConnection, app: str = APP) -> dict[str, tuple[int, int]]:
    """Return the number of messages, and of those not kept, by reason."""
    rows = await fetch_all(
        conn, "SELECT reason, messages, not_kept FROM eventstore.quarantine_counts WHERE app = %s", [app]
    )
    return {reason: (messages, not_kept) for reason, messages, not_kept in rows}


async def size(conn: AsyncConnection, *, samples: bool | None = None) -> tuple[int, int]:
    """Return the number of kept rows and the bytes of their payloads."""
    found = await fetch_row(
        conn,
        "SELECT count(*), coalesce(sum(octet_length(payload)), 0)::bigint FROM eventstore.quarantine"
        " WHERE is_sample = coalesce(%s, is_sample)",
        [samples],
    )
    assert found is not None
    return found


async def full_since(conn: AsyncConnection, app: str = APP) -> object:
    return await store.value(conn, "SELECT full_since FROM eventstore.quarantine_usage WHERE app = %s", app)


async def let_a_minute_pass(conn: AsyncConnection) -> None:
    """Change the stored times as if a minute had passed."""
    await conn.execute("UPDATE eventstore.quarantine_usage SET counted_at = counted_at - interval '1 minute'")
    await conn.execute("UPDATE eventstore.quarantine_counts SET last_sample_at = last_sample_at - interval '1 minute'")


def garbage_of_size(number: int, length: int, reason: str = "too odd") -> Rejected:
    return Rejected(APP, CHAT.value, b"%08d" % number + bytes(length - 8), reason)


async def app_status(conn: AsyncConnection) -> AppStatus:
    (app,) = (await read_status(conn, Registry({}, {}))).apps
    return app


async def test_messages_beyond_the_row_limit_are_counted_and_the_cursor_moves(
    appending: Appending, conn: AsyncConnection
) -> None:
    await store.set_epoch(conn)
    last = ""
    async with appending(TWENTY) as appender:
        for batch in range(10):
            last = store.next_ulid()
            rejected = [garbage(batch * 10 + number) for number in range(10)]
            result = await appender.append([], rejected=rejected, cursor=CursorMove(APP, 1, last))
            assert result.quarantined == 10
    assert await size(conn, samples=False) == (18, sum(len(garbage(number).payload) for number in range(18)))
    assert (await size(conn, samples=True))[0] == 1
    assert await counts(conn) == {garbage().reason: (100, 81)}
    assert await cursor_of(conn) == last
    assert await full_since(conn) is not None


@store.with_and_without_probing
async def test_events_of_the_same_batch_are_stored(appending: Appending, conn: AsyncConnection, probing: bool) -> None:
    async with appending(TWENTY) as appender:
        for batch in range(5):
            appender.probing = probing
            result = await appender.append(
                new_events(2), rejected=[garbage(batch * 10 + number) for number in range(10)]
            )
            assert (result.stored, result.quarantined) == (2, 10)
        assert result.not_kept == 10
    assert len(await store.positions(conn)) == 10
    assert (await size(conn))[0] <= 20


async def test_different_events_under_a_stored_id_count_against_the_same_limit(
    appending: Appending, conn: AsyncConnection
) -> None:
    events = new_events(30)
    async with appending(TWENTY) as appender:
        await appender.append(events)
        result = await appender.append([conflicting_event(event) for event in events])
        assert (result.stored, result.quarantined, result.not_kept) == (0, 30, 11)
        again = await appender.append([conflicting_event(event) for event in new_events(0) or events[:5]])
        assert (again.quarantined, again.not_kept) == (5, 0)
    assert (await size(conn))[0] == 19
    ((messages, not_kept),) = (await counts(conn)).values()
    assert (messages, not_kept) == (35, 11)


async def test_messages_beyond_the_byte_limit_are_counted_while_small_ones_are_still_kept(
    appending: Appending, conn: AsyncConnection
) -> None:
    limits = QuarantineLimits(max_rows=1000, max_bytes=10_000)
    async with appending(limits) as appender:
        await appender.append([], rejected=[garbage_of_size(number, 4_000) for number in range(3)])
        await appender.append([], rejected=[garbage_of_size(9, 50_000, "large"), garbage_of_size(10, 500, "small")])
    assert await size(conn, samples=False) == (3, 8_500)
    assert await size(conn, samples=True) == (0, 0)  # no sample fits into a tenth of the limit
    assert await counts(conn) == {"too odd": (3, 1), "large": (1, 1), "small": (1, 0)}


async def test_repetitions_are_counted_on_their_row_when_the_quarantine_is_full(
    appending: Appending, conn: AsyncConnection
) -> None:
    async with appending(TWENTY) as appender:
        await appender.append([], rejected=[garbage(number) for number in range(30)])
        result = await appender.append([], rejected=[garbage(3), garbage(3), garbage(29), garbage(25)])
        assert (result.quarantined, result.not_kept) == (4, 1)
    times = {row.payload: row.times for row in await quarantine_rows(conn)}
    assert (times[garbage(3).payload], times[garbage(29).payload]) == (3, 2)
    assert await counts(conn) == {garbage().reason: (34, 12)}


async def test_one_sample_a_minute_of_each_reason_is_kept_and_replaces_the_oldest(
    appending: Appending, conn: AsyncConnection
) -> None:
    async with appending(TWENTY) as appender:
        await appender.append([], rejected=[garbage(number) for number in range(18)])
        for minute in range(6):
            await appender.append([], rejected=[garbage(100 + minute * 10 + number) for number in range(10)])
            await appender.append([], rejected=[garbage(900 + minute)])  # in the same minute
            await let_a_minute_pass(conn)
        other = garbage(7)._replace(payload=b"other", reason="another reason")
        await appender.append([], rejected=[other])
    samples = await fetch_all(conn, "SELECT payload FROM eventstore.quarantine WHERE is_sample ORDER BY id")
    assert [payload for (payload,) in samples] == [garbage(159).payload, b"other"]
    assert (await size(conn, samples=False))[0] == 18
    assert (await counts(conn))[garbage().reason] == (84, 60)


async def test_samples_stay_within_their_byte_limit(appending: Appending, conn: AsyncConnection) -> None:
    limits = QuarantineLimits(max_rows=1000, max_bytes=10_000)
    async with appending(limits) as appender:
        await appender.append([], rejected=[garbage_of_size(0, 9_000)])
        for number in range(1, 6):
            await appender.append([], rejected=[garbage_of_size(number, 400)])
            await let_a_minute_pass(conn)
    assert await size(conn, samples=True) == (2, 800)
    assert (await size(conn))[1] <= 10_000


async def test_deleted_rows_make_room_within_a_minute_and_status_shows_it(
    appending: Appending, conn: AsyncConnection
) -> None:
    await store.set_epoch(conn)
    async with appending(TWENTY) as appender:
        await appender.append([], rejected=[garbage(number) for number in range(50)])
        since = await full_since(conn)
        await conn.execute("DELETE FROM eventstore.quarantine")
        assert (await appender.append([], rejected=[garbage(51)])).not_kept == 1
        await let_a_minute_pass(conn)
        assert (await appender.append([], rejected=[garbage(52), garbage(53)])).not_kept == 0
    assert since is not None
    assert await full_since(conn) is None
    assert len(await quarantine_rows(conn)) == 2
    app = await app_status(conn)
    assert (app.quarantined, app.quarantined_messages, app.quarantined_not_kept) == (2, 53, 32)
    assert app_lines(await read_status(conn, Registry({}, {})))[1].startswith(f"{APP}: the quarantine was full: of 53")


async def test_rows_kept_by_an_earlier_version_count(appending: Appending, conn: AsyncConnection) -> None:
    await conn.execute(
        "INSERT INTO eventstore.quarantine (app, contract, sha256, reason, payload, first_seen, last_seen, count)"
        " SELECT %s, 'chat.external', sha256(n::text::bytea), 'of before', n::text::bytea, now(), now(), 1"
        " FROM generate_series(1, 50) AS n",
        [APP],
    )
    async with appending(TWENTY) as appender:
        assert (await appender.append([], rejected=[garbage(1), garbage(2)])).not_kept == 1
    assert (await size(conn, samples=False))[0] == 50


async def test_each_app_has_its_own_limits(appending: Appending, conn: AsyncConnection) -> None:
    async with appending(TWENTY) as appender:
        await appender.append([], rejected=[garbage(number, app) for number in range(25) for app in "ab"])
        await appender.append([], rejected=[garbage(number, "c") for number in range(10)])
    assert {app: await counts(conn, app) for app in "abc"} == {
        "a": {garbage().reason: (25, 6)},
        "b": {garbage().reason: (25, 6)},
        "c": {garbage().reason: (10, 0)},
    }


async def test_limits_of_zero_keep_nothing(appending: Appending, conn: AsyncConnection) -> None:
    async with appending(QuarantineLimits(max_rows=0)) as appender:
        assert (await appender.append([], rejected=[garbage(1), garbage(2)])).not_kept == 2
    assert await quarantine_rows(conn) == []
    assert await counts(conn) == {garbage().reason: (2, 2)}


async def test_concurrent_appends_stay_within_the_limit_and_lose_no_count(
    appending: Appending, conn: AsyncConnection
) -> None:
    async def flood(first: int) -> None:
        async with appending(TWENTY) as appender:
            for batch in range(10):
                numbers = range(first + batch * 5, first + batch * 5 + 5)
                await appender.append([], rejected=[garbage(number) for number in numbers])

    await asyncio.gather(*(flood(writer * 1000) for writer in range(4)))
    rows, _ = await size(conn)
    assert rows <= 20
    assert await counts(conn) == {garbage().reason: (200, 200 - rows)}


async def test_a_transaction_that_fails_counts_nothing(
    appending: Appending, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with appending(TWENTY) as appender:
        await appender.append([], rejected=[garbage(1)])

        async def fail(*_: object, **__: object) -> None:
            raise psycopg.OperationalError("cut")

        with monkeypatch.context() as patch:
            patch.setattr(quarantining, "_save_usage", fail)
            with pytest.raises(psycopg.OperationalError):
                await appender.append(new_events(1), rejected=[garbage(2)])
        await appender.append(new_events(1), rejected=[garbage(2)])
    assert await counts(conn) == {garbage().reason: (2, 0)}


@pytest.mark.oldest
async def test_an_import_keeps_all_of_its_file_and_counts_it(
    appending: Appending, conn: AsyncConnection, database_url: str, tmp_path: Path
) -> None:
    await store.set_epoch(conn)
    async with appending(TWENTY) as appender:
        await appender.append(new_events(2), rejected=[garbage(1), garbage(1), garbage(2)])
    path = tmp_path / "log.events"
    await export_events(conn, path, on_progress=lambda *_: None)
    await conn.execute("TRUNCATE eventstore.quarantine, eventstore.quarantine_counts, eventstore.quarantine_usage")
    for _ in range(2):  # again: nothing is counted twice
        await import_events(IngestContext(database_url, store.QUICK), path, on_progress=lambda *_: None)
        assert await counts(conn) == {garbage().reason: (3, 0)}
    await conn.execute(
        "INSERT INTO eventstore.quarantine_usage (app, kept_rows, counted_at) VALUES (%s, 0, now())", [APP]
    )
    await conn.execute("DELETE FROM eventstore.quarantine")
    await import_events(IngestContext(database_url, store.QUICK), path, on_progress=lambda *_: None)
    async with appending(QuarantineLimits(max_rows=2)) as appender:
        assert (await appender.append([], rejected=[garbage(3)])).not_kept == 1


async def test_a_flood_of_garbage_is_logged_once_and_status_has_the_numbers(
    database_url: str, conn: AsyncConnection
) -> None:
    flood = [b"\xff%d" % number for number in range(3_000)]
    event = wire.event(store.next_ulid())
    with capture_logs() as logs:
        async with scripted_server(stays_open(*flood, event)) as upstream:
            one = follower(database_url, upstream.address, limits=TWENTY)
            async with following(one) as running:
                await running.wait_until(lambda: one.stored == 1, "the event after the garbage")
    assert one.quarantined == 3_000
    assert (await size(conn))[0] <= 20
    lines = [line for line in logs if line["event"] == "quarantined"]
    assert len(lines) <= 2
    assert sum(line["messages"] for line in lines) == 3_000
    assert [line["event"] for line in logs].count("quarantine limit reached") == 1
    app = await app_status(conn)
    assert (app.quarantined_messages, app.quarantined_not_kept) == (3_000, 3_000 - app.quarantined)
    assert app.quarantine_full_since is not None
    assert app.quarantine_reasons == {"the bytes are not a SendRequestEvent": 3_000}
    message = app_lines(await read_status(conn, Registry({}, {})))[1]
    assert message.startswith(f"{APP}: the quarantine is full since 20")
    assert "of 3,000 quarantined messages" in message
    assert f"the quarantine of app {APP!r} is full since" in " ".join(
        find_problems(await read_status(conn, Registry({}, {})))
    )


def test_the_defaults_and_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEFAULT_LIMITS.model_dump() == {"max_rows": 10_000, "max_bytes": 256 * 2**20}
    monkeypatch.setenv("PROJECTIONS_QUARANTINE_MAX_ROWS", "7")
    monkeypatch.setenv("PROJECTIONS_QUARANTINE_MAX_BYTES", "0")
    assert load_quarantine_limits().model_dump() == {"max_rows": 7, "max_bytes": 0}
    assert DEFAULT_LIMITS.max_rows == 10_000
    monkeypatch.setenv("PROJECTIONS_QUARANTINE_MAX_ROWS", "-1")
    with pytest.raises(UsageError, match=r"^PROJECTIONS_QUARANTINE_MAX_ROWS must be at least 0$"):
        load_quarantine_limits()
