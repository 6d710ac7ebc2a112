"""The database server's clock was ahead for a while: reported by the next append, by the status, and by an as-of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.appending import server_clock
from eventstore.appending.restore import restore_events
from eventstore.appending.server_clock import ClockWatch, find_events_ahead_of_clock, find_last_received_by
from eventstore.event_reader import StoredEvent
from projections.cli.shared import status_tables
from projections.inspecting.read_status import read_status
from projections.migrating.metadata import READ_MODELS
from projections.rebuilding.as_of import build_as_of
from projections.rebuilding.replay_context import ReplayContext
from projections.registry import Registry
from projections.settings import ReplaySettings
from tests import store
from tests.folding import QUICK
from tests.queries import fetch_all

MONTH = timedelta(days=30)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


async def stored_at(url: str, *ages: timedelta) -> None:
    """Store an event of each age, in order of position."""
    now = datetime.now(UTC)
    async with store.connection(url) as conn:
        events = zip(ages, store.new_events(len(ages)), strict=True)
        stored = [StoredEvent(at, now - age, event) for at, (age, event) in enumerate(events, 1)]
        await restore_events(conn, stored, store.QUICK)


async def position_and_remark(url: str, moment: str) -> tuple[int, str]:
    context = ReplayContext(url, QUICK, ReplaySettings())
    built = await build_as_of(context, [projection() for projection in READ_MODELS], moment, "then", force=True)
    return built.position, "; ".join(built.remarks)


def after(ago: timedelta) -> str:
    return (datetime.now(UTC) - ago).isoformat()


async def test_an_append_warns_once_when_the_last_time_is_ahead_of_the_clock(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_clock, "WATCH", ClockWatch())
    await stored_at(database_url, timedelta(hours=1), -MONTH)
    with capture_logs() as logs:
        for _ in range(3):
            async with store.appender(database_url) as appender:
                await appender.append(store.new_events(1))
    (line,) = [each for each in logs if "ahead of the database server's clock" in each["event"]]
    assert line["log_level"] == "warning"
    assert abs(line["seconds_ahead"] - MONTH.total_seconds()) < 600
    times = [row[0] for row in await fetch_all(conn, "SELECT received_at FROM eventstore.events ORDER BY position")]
    assert len(set(times[1:])) == 1, "this is the time that the warning is about"


def test_the_warning_repeats_only_after_long_and_not_for_small_differences() -> None:
    uptimes = iter(
        [
            0.0,
            0.0,
            1.0,
            server_clock.WARN_AGAIN - 1,
            server_clock.WARN_AGAIN,
            server_clock.WARN_AGAIN,
            server_clock.WARN_AGAIN + 1,
        ]
    )
    watch = ClockWatch(lambda: next(uptimes))
    with capture_logs() as logs:
        watch.check(NOW, NOW + timedelta(seconds=10))
        assert logs == []
        for _ in range(5):
            watch.check(NOW, NOW + timedelta(seconds=11))
    assert len(logs) == 2


async def test_the_status_names_the_positions_whose_time_is_ahead(database_url: str, conn: AsyncConnection) -> None:
    await stored_at(database_url, timedelta(hours=2), timedelta(hours=1), -MONTH, -MONTH)
    async with store.appender(database_url) as appender:
        await appender.append(store.new_events(2))
    status = await read_status(conn, Registry({}, {}))
    found = status.ahead_of_clock
    assert found is not None
    assert (found.first, found.last) == (3, 6)
    assert "positions 3 to 6" in status_tables.clock_behind_sentence(found)
    assert status.as_dict()["ahead_of_clock"]["first"] == 3


async def test_a_correct_clock_is_not_reported(database_url: str, conn: AsyncConnection) -> None:
    assert await find_events_ahead_of_clock(conn) is None
    await stored_at(database_url, timedelta(hours=1), timedelta(0))
    assert await find_events_ahead_of_clock(conn) is None
    assert (await read_status(conn, Registry({}, {}))).as_dict()["ahead_of_clock"] is None


async def test_positions_ahead_are_found_although_some_are_missing(database_url: str, conn: AsyncConnection) -> None:
    await stored_at(database_url, *(timedelta(hours=hours) for hours in range(9, 0, -1)))
    async with conn.transaction(force_rollback=True):
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM eventstore.events WHERE position IN (1, 4, 5, 8)")
        now = datetime.now(UTC)
        for hours, among in ((10, {0, 1}), (7, {3, 4, 5}), (4, {6}), (3, {7, 8}), (0, {9})):
            assert await find_last_received_by(conn, now - timedelta(hours=hours, minutes=-1), 9) in among


async def test_as_of_now_says_that_positions_with_a_time_ahead_are_left_out(database_url: str) -> None:
    await stored_at(database_url, timedelta(hours=1), -MONTH, -MONTH)
    position, remark = await position_and_remark(database_url, after(timedelta(0)))
    assert position == 1
    assert "positions 2 to 3 have times ahead of the database server's clock" in remark
    assert "positions from 2 on are left out: to include them, give an event_id" in remark
    position, remark = await position_and_remark(database_url, after(-2 * MONTH))
    assert position == 3
    assert "their real receive times are unknown" in remark
    assert "in the future" in remark


async def test_as_of_before_the_first_and_not_before_the_last_event_says_so(
    database_url: str, conn: AsyncConnection
) -> None:
    assert (await position_and_remark(database_url, after(timedelta(0))))[1] == "no event is stored yet"
    await stored_at(database_url, timedelta(hours=3), timedelta(hours=2), timedelta(hours=1))
    position, remark = await position_and_remark(database_url, after(timedelta(hours=4)))
    assert (position, remark.startswith("that time is before the first event (position 1 was received at 20")) == (
        0,
        True,
    )
    position, remark = await position_and_remark(database_url, after(timedelta(hours=2.5)))
    assert (position, remark) == (1, "")
    position, remark = await position_and_remark(database_url, after(timedelta(minutes=5)))
    assert (position, remark.startswith("that time is at or after the last event (position 3 was received at 20")) == (
        3,
        True,
    )
    position, remark = await position_and_remark(database_url, after(timedelta(hours=-5)))
    assert (position, "in the future" in remark, "position 3 was received" in remark) == (3, True, True)
    event_id = await store.value(conn, "SELECT event_id FROM eventstore.events WHERE position = 3")
    assert await position_and_remark(database_url, str(event_id)) == (3, "")
