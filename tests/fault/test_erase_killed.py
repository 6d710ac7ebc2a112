"""An erase that is killed before any of its messages leaves each person erased or untouched, and can be run again."""

from __future__ import annotations

from psycopg import AsyncConnection

from eventstore.errors import LockLost
from tests import folding, oracle, rebuilding, store
from tests.erasing import BUILT_IN, KEY, erase
from tests.fault.cut_connection import ended_before_cut
from tests.folding import append, new_record
from tests.queries import fetch_all

TABLES = (
    "eventstore.events",
    *(f"public.{name}" for name in ("request_recipients", "consent_registry", "poll_responses", "people")),
    "public.person_requests",
)
ROWS_OF = " UNION ALL ".join(f"SELECT count(*) FROM {name} WHERE ppnum = ANY(%(numbers)s)" for name in TABLES)  # noqa: S608 - names of ours
ARE_TOKENS_RECORDED = (
    "SELECT ARRAY(SELECT DISTINCT token FROM eventstore.erased_events ORDER BY 1)"
    " = ARRAY(SELECT token FROM eventstore.erasures WHERE rows <> '{}' ORDER BY 1)"
)
PERSONS = 600
AT_ONCE = 2


async def run_killed(url: str, message: int, *numbers: str) -> bool:
    """Erase persons through a connection that is cut before a message; return whether it ended before that."""
    return await ended_before_cut(url, message, lambda cut: erase(cut, *numbers, key=KEY), LockLost)


async def rows_left(conn: AsyncConnection, numbers: list[str]) -> list[int]:
    """Return how many rows of each table have one of some numbers."""
    return [count for (count,) in await fetch_all(conn, ROWS_OF, {"numbers": numbers})]


async def test_an_erase_that_is_killed_before_any_message_leaves_whole_persons(database_url: str) -> None:
    persons = [f"1230000{person:04}" for person in range(PERSONS)]
    records = [
        new_record(kind, person, request=f"request {number % 7}", options=("yes",))
        for number, person in enumerate(persons)
        for kind in (oracle.PENDING_CONSENT, oracle.DELIVERED, oracle.POLL_RESPONSE)
    ]
    async with store.connection(database_url, "observer") as conn:
        await append(conn, *records)
        await folding.fold_all(database_url)
        whole, none = await rows_left(conn, persons[:AT_ONCE]), [0] * len(TABLES)
        outcomes: list[bool] = []
        ended = False
        while not ended:
            first = len(outcomes) * AT_ONCE
            numbers = persons[first : first + AT_ONCE]
            assert numbers, "the last message of an erase was not reached"
            ended = await run_killed(database_url, len(outcomes) + 1, *numbers)
            left = await rows_left(conn, numbers)
            assert left in (none, whole), f"killed before message {len(outcomes) + 1}"
            assert await store.value(conn, ARE_TOKENS_RECORDED)
            outcomes.append(left == none)
            if len(outcomes) % 25 == 1:
                await folding.assert_rows_match_oracle(conn)
        assert set(outcomes) == {False, True}, "it was never killed before its commit, or never after its commit"
        # Each is run again: those that were erased stay, the others are erased now.
        tried = persons[: len(outcomes) * AT_ONCE]
        await erase(database_url, *tried)
        assert await rows_left(conn, tried) == none
        await folding.assert_rows_match_oracle(conn)
        for projection in BUILT_IN.values():
            assert (await rebuilding.verify(database_url, projection)).equal
        assert await store.value(conn, "SELECT count(*) FROM eventstore.change_permits") == 0
