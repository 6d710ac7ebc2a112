"""The session in which persons are erased, by their numbers or again by a ledger: one at a time, by the owner only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from psycopg import AsyncConnection

from eventstore.locks import ERASE_LOCK
from eventstore.postgres.session_lock import Lock, run_under_locks, session_name
from projections.erasing.erase_request import ErasedPersons
from projections.erasing.other_places import refuse_other_roles
from projections.erasing.row_moves import existing_tables_only
from projections.projection import Projection
from projections.rebuilding.replay_context import ReplayContext

Work = Callable[[AsyncConnection[Any], Mapping[str, Projection]], Awaitable[ErasedPersons]]


async def run_erasing(context: ReplayContext, projections: Mapping[str, Projection], work: Work) -> ErasedPersons:
    """Run what erases persons, while nobody else changes stored events.

    Args:
        context: the database, settings, and who receives the progress.
        projections: all that are installed.
        work: gets the session, and the projections whose tables exist.

    Raises:
        LockHeld: another erase, a redecode, an archive or an import runs; nothing was done.
        ProjectionsError: this role may not erase; nothing was done.

    """

    async def work_in_session() -> ErasedPersons:
        async with context.connection("erase") as conn:
            await refuse_other_roles(conn)
            return await work(conn, await existing_tables_only(conn, projections))

    lock = Lock(ERASE_LOCK, "the stored events")
    return await run_under_locks(
        context.url, [lock], name=session_name("erase"), waits=context.waits, work=work_in_session
    )
