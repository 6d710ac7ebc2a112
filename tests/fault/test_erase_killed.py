"""An erase that is killed before any of its messages leaves each person erased or untouched, and can be run again."""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg import AsyncConnection

from eventstore.errors import LockLost
from tests import folding, oracle, rebuilding, store
from tests.erasing import BUILT_IN, KEY, erase
from tests.fault.proxy import PostgresProxy, target_of, through
from tests.folding import append, new_record
from tests.queries import fetch_all

STEP = 7
"""Every seventh message: each place is met in some run, since the numbers of messages before it differ."""
PERSONS = 100


async def run_killed(url: str, message: int, *numbers: str) -> bool:
    """Erase persons through a connection that is cut before a message; return whether it ended before that."""
    async with PostgresProxy(*target_of(url), before=lambda number, _: number < message) as proxy:
        with suppress(psycopg.Error, OSError, LockLost):
            await erase(through(url, proxy.port), *numbers, key=KEY)
            return True
    async with store.connection(url, "observer") as conn:

        async def sessions_ended() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
            return await store.value(conn, query, conn.info.backend_pid) == 1  # the test's own other session

        await store.wait_until(sessions_ended, "the end of the erase's sessions")
    return False


async def numbers_left(conn: AsyncConnection, *numbers: str) -> set[str]:
    rows = await fetch_all(conn, "SELECT DISTINCT ppnum FROM eventstore.events WHERE ppnum = ANY(%s)", [list(numbers)])
    return {number for (number,) in rows}


async def test_a_killed_erase_leaves_whole_persons(database_url: str) -> None:
    records = [
        new_record(kind, f"1230000{person:04}", request=f"request {person % 7}", options=("yes",))
        for person in range(PERSONS)
        for kind in (oracle.PENDING_CONSENT, oracle.DELIVERED, oracle.POLL_RESPONSE)
    ]
    async with store.connection(database_url, "observer") as conn:
        await append(conn, *records)
        await folding.fold_all(database_url)
        outcomes = set()
        ended = False
        person = 0
        while not ended and person < PERSONS:
            one, other = numbers = [f"1230000{each:04}" for each in (person, person + 1)]
            ended = await run_killed(database_url, person // 2 * STEP + 1, *numbers)
            left = await numbers_left(conn, one, other)
            assert left in (set(), {one, other})
            outcomes.add(len(left))
            await folding.assert_rows_match_oracle(conn)
            erased = await fetch_all(conn, "SELECT DISTINCT token FROM eventstore.erased_events")
            tokens = await fetch_all(conn, "SELECT token FROM eventstore.erasures WHERE rows <> '{}'")
            assert sorted(erased) == sorted(tokens)
            await erase(database_url, *numbers)
            assert await numbers_left(conn, *numbers) == set()
            person += 2
        assert ended, "the last message of an erase was not reached"
        assert outcomes == {0, 2}
        await folding.assert_rows_match_oracle(conn)
        for projection in BUILT_IN.values():
            assert (await rebuilding.verify(database_url, projection)).equal
        assert await store.value(conn, "SELECT count(*) FROM eventstore.change_permits") == 0
