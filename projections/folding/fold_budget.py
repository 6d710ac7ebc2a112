"""The time budget of a fold: how long its statements may take, and how to recognise that the budget ended one.

Invariants. The budget applies to each statement of a fold, or to ``handle`` for each event, regardless of the window's
size. What other sessions do never counts as too slow: a wait for a lock ends earlier, with a different error, and a
statement that somebody cancels ends before its time is up.

What happens to a window that took too long is in :mod:`projections.folding.window_size`.
"""

from __future__ import annotations

from psycopg import errors

from eventstore.errors import UnfinishedCommit
from eventstore.postgres.session_settings import milliseconds
from projections.errors import HandleTooSlow

LOCKS_SHARE = 0.5
"""Share of the budget for a wait for one lock, so that such a wait is never mistaken for a slow event."""
RETRY_SLOW = 4
"""Budgets between two attempts at a slow event; in between, ``skip`` and ``pause`` can lock the checkpoint."""


def timeout_settings(seconds: float) -> dict[str, str]:
    """Return the timeouts of a session that only folds."""
    return {"statement_timeout": milliseconds(seconds), "lock_timeout": milliseconds(seconds * LOCKS_SHARE)}


def is_too_slow(error: BaseException, seconds: float, budget: float) -> bool:
    """Return whether the time budget ended a fold.

    A statement that somebody cancels has the same SQLSTATE, and its message is translated, so only the time tells them
    apart.

    Args:
        error: the error of the fold.
        seconds: how long the whole window took until then.
        budget: seconds that one statement may take.

    """
    return isinstance(error, HandleTooSlow) or (isinstance(error, errors.QueryCanceled) and seconds >= budget)


def was_ended_by_others(error: BaseException) -> bool:
    """Return whether another session or server ended a fold, by a lock, by cancelling it, or by a commit that it owes.

    A shorter window would not help.
    """
    return isinstance(error, errors.QueryCanceled | errors.LockNotAvailable | UnfinishedCommit)
