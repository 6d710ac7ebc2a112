"""The time budget of a fold: how it ends what takes too long, and when an event is blamed for that.

Invariants. A statement of a fold may take so many seconds, whatever the window; so may ``handle`` for one event. A
window that takes longer is folded again in much shorter ones, until one event is alone. That event is blamed only when
it takes too long twice in a row: once may have been a machine that stood still. What others do is never an event's
fault: a wait for a lock ends earlier, with an error of its own, and a statement that somebody cancels ends before its
time is up.
"""

from __future__ import annotations

from psycopg import errors

from projections.errors import HandleTooSlow

LOCKS_SHARE = 0.5
"""Of the budget, for any one lock: so a wait for a lock is never taken for a slow event."""
RETRY_SLOW = 4
"""Budgets between attempts at an event that was blamed: in between, ``skip`` and ``pause`` get the checkpoint."""


def milliseconds(seconds: float) -> str:
    """Return a time as Postgres's settings take it."""
    return f"{max(int(seconds * 1000), 1)}ms"


def timeout_settings(seconds: float) -> dict[str, str]:
    """Return the settings of a session that folds and does nothing else."""
    return {"statement_timeout": milliseconds(seconds), "lock_timeout": milliseconds(seconds * LOCKS_SHARE)}


def is_too_slow(error: BaseException, seconds: float, budget: float) -> bool:
    """Tell whether a fold was ended by its budget.

    Somebody who cancels the statement causes the same SQLSTATE, and the text is translated: the time tells them apart.

    Args:
        error: what ended it.
        seconds: how long the whole window took until then.
        budget: what one statement of it may take, in seconds.

    """
    return isinstance(error, HandleTooSlow) or (isinstance(error, errors.QueryCanceled) and seconds >= budget)


def was_ended_by_others(error: BaseException) -> bool:
    """Tell whether others ended a fold, by a lock or by cancelling it; a shorter window would not help."""
    return isinstance(error, errors.QueryCanceled | errors.LockNotAvailable)
