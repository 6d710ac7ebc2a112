"""Ingest's connection to Postgres is cut before its n-th message, for n up to the last message."""

from __future__ import annotations

from itertools import count

from psycopg import AsyncConnection

from tests import store
from tests.fault.proxy import PostgresProxy, target_of, through
from tests.fix_simulator import SimulatorFactory
from tests.following import count_events, cursor_row, follower, following, log_of, payloads, quick_waits
from tests.store import CHAT

EVENTS = 12
EVERY = 3
"""psycopg sends messages in groups of five, so every third message is of each kind by turns."""
# Few heartbeats, so that each run sends nearly the same messages to Postgres.
WAITS = quick_waits(leader_heartbeat=0.1, standby=0.005)


async def stored(conn: AsyncConnection, app: str) -> list[bytes]:
    rows = await conn.execute("SELECT payload FROM eventstore.events WHERE app = %s ORDER BY position", [app])
    return [row[0] for row in await rows.fetchall()]


async def test_a_cut_before_any_message_loses_nothing_and_stores_nothing_twice(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        store.connection(database_url, name="observer") as conn,
    ):
        url = through(database_url, proxy.port)
        for number in count(1, EVERY):
            app = f"app{number}"
            log = log_of(EVENTS, ago=3600 + number)
            simulator = await simulator_factory(log)
            cuts: list[int] = []
            proxy.messages = 0

            def cut(n: int, _kind: bytes) -> bool:
                if n != number or cuts:  # noqa: B023 - called in this round only
                    return True
                cuts.append(n)  # noqa: B023
                return False

            proxy.before = cut
            one = follower(url, simulator.address, app=app, waits=WAITS)

            async def done() -> bool:
                if await count_events(conn, app) < EVENTS:  # noqa: B023
                    return False
                row = await cursor_row(conn, app)  # noqa: B023
                # If COMMIT was cut, everything may be stored, and the same events arrive again: until the last one, the
                # cursor is at an earlier one.
                at_the_end = row["cursor"] == log[-1].event_id  # noqa: B023
                return bool(row["contract"] and at_the_end and one.is_quiet)  # noqa: B023

            async with following(one, waits=WAITS) as running:
                await store.wait_until(done, f"all events stored after a cut before message {number}")
                outcome = await running.stop()
            # If the cut is noticed only at the stop, ingest can't know that everything is committed.
            assert cuts or not outcome.uncommitted
            await proxy.wait_for_disconnect()
            await simulator.stop()
            assert await stored(conn, app) == payloads(log, CHAT), f"cut before message {number}"
            row = await cursor_row(conn, app)
            # If COMMIT was cut and done, the same events arrive again, and the stop may come before the last of them.
            cursors = [event.event_id for event in (log if cuts and one.duplicates else log[-1:])]
            assert row["cursor"] in cursors, f"cut before message {number}"
            assert row["contract"] == CHAT
            if not cuts:
                break
        await store.count_gapless(conn)
        assert await store.quarantine_rows(conn) == []
    assert number > 20, "an ingest sends more messages than that to Postgres"
