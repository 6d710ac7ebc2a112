"""Restores the erasures of a file: who was erased, and which events were theirs.

Invariants. They are restored in one transaction, under the append lock: from then on no event of theirs is stored with
its number, from wherever it comes. Events that are stored already are not changed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from psycopg import AsyncConnection, sql

from eventstore.appending.append_lock import acquire_append_lock, retry_while_append_lock_is_busy
from eventstore.distributed_log import retry_after_commits, wait_for_commits_under_append_lock
from eventstore.erasure.erasure_rows import (
    mark_not_applied,
    renew_erasures,
    restore_erased_events,
    restore_erasures,
)
from eventstore.erasure.erasure_token import TOKEN_PATTERN
from eventstore.errors import OtherLog
from eventstore.partitions import BY_ID_IN_MODE, joining_by_id
from eventstore.postgres.queries import fetch_column, fetch_value
from eventstore.transfer.erasure_records import erased_events_of_file, erasures_of_file
from eventstore.waits import Waits

BATCH = 5_000

_NOT_ERASED = {
    mode: sql.SQL("SELECT count(*) FROM {by_id} WHERE {id} = ANY(%s) AND e.ppnum <> '' AND e.ppnum !~ %s").format(
        **parts
    )
    for mode, parts in BY_ID_IN_MODE.items()
}
_MISSING = """
SELECT DISTINCT d.token FROM unnest(%s::text[], %s::text[]) AS d (event_id, token)
WHERE d.event_id NOT IN (SELECT i.event_id FROM eventstore.event_positions AS i WHERE i.event_id = ANY(%s))
"""

_WITH_NUMBERS = joining_by_id(
    """
SELECT DISTINCT d.token FROM unnest(%s::text[], %s::text[]) AS d (event_id, token)
{events} WHERE e.ppnum <> '' AND e.ppnum !~ %s
""",
    "d",
)


async def restore_erasures_of_file(
    conn: AsyncConnection, path: Path, waits: Waits, *, may_be_stored: bool = False
) -> int:
    """Restore the erasures of a file that was checked.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        path: the file.
        waits: ``append_lock`` counts.
        may_be_stored: whether events of these persons may be in the log with their numbers; the caller erases them,
            and until then they are noted as not applied.

    Returns:
        The head of the log: later events of these persons are stored erased.

    Raises:
        OtherLog: such an event is in the log, and may not be; nothing was restored.
        psycopg.Error: the database failed, or the connection; nothing was restored, or everything.

    """

    async def attempt() -> int:
        async with conn.transaction():
            head = await acquire_append_lock(conn, waits)
            if mode := head.is_distributed:
                await wait_for_commits_under_append_lock(conn)
            await restore_erasures(conn, list(erasures_of_file(path)))
            awaited, with_numbers = set[str](), set[str]()
            for events in _batches_of_events(path):
                ids, tokens = [event_id for event_id, _ in events], [token for _, token in events]
                if not may_be_stored and await fetch_value(conn, _NOT_ERASED[mode], [ids, TOKEN_PATTERN]):
                    raise OtherLog(
                        "the file has erased persons who are not erased here; run projections erase --again with it"
                    )
                await restore_erased_events(conn, events)
                awaited.update(await fetch_column(conn, _MISSING, [ids, tokens, ids]))
                if may_be_stored:
                    with_numbers.update(await fetch_column(conn, _WITH_NUMBERS[mode], [ids, tokens, TOKEN_PATTERN]))
            await renew_erasures(conn, sorted(awaited), awaited=True)
            await mark_not_applied(conn, sorted(with_numbers))
        return head.position

    return await retry_after_commits(conn, lambda: retry_while_append_lock_is_busy(conn, waits, attempt))


def _batches_of_events(path: Path) -> Iterator[Sequence[tuple[str, str]]]:
    events = erased_events_of_file(path)
    while batch := list(islice(events, BATCH)):
        yield batch
