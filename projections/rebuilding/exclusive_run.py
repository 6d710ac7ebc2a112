"""Lets one rebuild, verify, as-of or redecode of a projection run at a time; a second one fails and names the first.

Erasing a person doesn't wait for them: what they have folded until then is dropped, and they start over.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from psycopg import AsyncConnection

from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.errors import ArchiveError
from eventstore.locks import ERASE_LOCK, rebuild_lock
from eventstore.postgres.lock_holder import find_holder_name
from eventstore.postgres.session_lock import Lock, is_session_of, run_under_locks, session_name
from projections.errors import ProjectionsError, RebuildLost
from projections.projection import Projection
from projections.rebuilding.replay_context import ReplayContext

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def rebuild_locks(projections: Iterable[Projection]) -> list[Lock]:
    """Return the rebuild locks of several projections, in the one order in which everybody acquires them."""
    names = sorted(projection.name for projection in projections)
    return [Lock(rebuild_lock(name), f"projection {name}") for name in names]


async def run_exclusively(
    context: ReplayContext,
    projections: Iterable[Projection],
    what: str,
    work: Callable[[], Coroutine[Any, Any, T]],
    *,
    before: Sequence[Lock] = (),
) -> T:
    """Do some work while holding the rebuild locks of projections; losing one cancels the work.

    Args:
        context: the database and its timeouts.
        projections: whose locks.
        what: what the work is; part of the sessions' application_name, which the message to a second one shows.
        work: is called once all locks are held.
        before: locks that are acquired before those of the projections.

    Raises:
        LockHeld: another run has one of them; nothing was started.
        LockLost: another run took over; the work was cancelled.
        Exception: whatever the work raises.

    """
    locks = [*before, *rebuild_locks(projections)]
    return await run_under_locks(context.url, locks, name=session_name(what), waits=context.waits, work=work)


class ReplayAttempt(Protocol[T_co]):
    """One attempt at a replay."""

    def __call__(self, *, is_first: bool) -> Coroutine[Any, Any, T_co]:
        """Replay from the beginning; the first attempt may resume an earlier run."""


async def start_over_after_erasures(
    conn: AsyncConnection[Any], context: ReplayContext, name: str, attempt: ReplayAttempt[T]
) -> T:
    """Replay until nobody is erased meanwhile.

    Args:
        conn: the replay's connection, in autocommit.
        context: receives the notes.
        name: what is replayed, for the notes.
        attempt: replays once.

    Raises:
        Exception: whatever the attempt raises, other than because of an erasure.

    """
    is_first = True
    while True:
        erasures, is_erasing = await read_last_erasure(conn), await _is_erasing(conn)
        try:
            return await attempt(is_first=is_first)
        except (ProjectionsError, ArchiveError) as error:
            if conn.broken or conn.closed:
                raise
            # At its end an erase drops all shadows, also one that was begun after the persons were erased.
            is_dropped = isinstance(error, RebuildLost) and (is_erasing or await _is_erasing(conn))
            if not is_dropped and await read_last_erasure(conn) == erasures:
                raise
        is_first = False
        context.progress.note(f"{name}: a person was erased meanwhile; starting over")


async def _is_erasing(conn: AsyncConnection[Any]) -> bool:
    return is_session_of(await find_holder_name(conn, ERASE_LOCK), "erase")
