"""Lets one rebuild, verify, as-of or redecode of a projection run at a time; a second one fails and names the first."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from eventstore.locks import rebuild_lock
from eventstore.postgres.session_lock import Lock, run_under_locks, session_name
from projections.projection import Projection
from projections.rebuilding.replay_context import ReplayContext

T = TypeVar("T")


def rebuild_locks(projections: Iterable[Projection]) -> list[Lock]:
    """Return the rebuild locks of several projections, in the one order in which everybody acquires them."""
    names = sorted(projection.name for projection in projections)
    return [Lock(rebuild_lock(name), f"projection {name}") for name in names]


async def run_exclusively(
    context: ReplayContext, projections: Iterable[Projection], what: str, work: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """Do some work while holding the rebuild locks of projections; losing one cancels the work.

    Args:
        context: the database and its timeouts.
        projections: whose locks.
        what: what the work is; part of the sessions' application_name, which the message to a second one shows.
        work: is called once all locks are held.

    Raises:
        LockHeld: another run has one of them; nothing was started.
        LockLost: another run took over; the work was cancelled.
        Exception: whatever the work raises.

    """
    locks = rebuild_locks(projections)
    return await run_under_locks(context.url, locks, name=session_name(what), waits=context.waits, work=work)
