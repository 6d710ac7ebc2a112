"""How many positions the next window has, and which event made a window fail.

Invariants. A window that fails is folded again in shorter windows, so everything before the event that can't be folded
is folded, and in the end the window is that one event and the error names it. An event that takes too long is blamed
only when that happens twice in a row: the first time, the machine may have been suspended. The window is not shortened
for missing positions, nor for failures that other sessions caused (they held a lock or cancelled the statement).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.archived_rows import find_archived_error
from eventstore.errors import MissingPositions, storable
from eventstore.postgres.queries import fetch_value
from eventstore.schema import events
from eventstore.whole_window import LOG, find_missing_positions
from projections.errors import HandleFailed, describe_user_code_error, may_be_caused_by_an_event
from projections.folding import fold_budget

SHRINK_SLOW = 100
SHRINK_FAILED = 2
"""A window is divided by one of these. Each slow attempt costs the whole time budget, so there must be few of them."""
GROW_BELOW = 0.25
"""Share of the time budget: a window that took longer is long enough."""
QUICK_SECONDS, LONG_SECONDS = 1.0, 4.0
"""Larger windows than usual grow if one takes less than the first time, and shrink if it takes more than the second."""

_EVENT_AT = sql.SQL("SELECT event_id FROM {} WHERE position = %s")
_REBUILD_WITH_FILES = "run projections rebuild with PROJECTIONS_ARCHIVE set to the folder of their files"


class Cause(Enum):
    """Why a window failed, and so what to do next."""

    WINDOW_TOO_LONG = auto()  # more than one event: fold the next, shorter window
    SLOW_ONCE = auto()  # one event took too long: try it once more
    EVENT = auto()  # this event can't be folded
    MISSING_POSITIONS = auto()
    NOT_AN_EVENT = auto()  # the database, the statement, or other sessions


@dataclass(frozen=True, slots=True)
class WindowFailure:
    """What a failed window came to.

    ``message`` is for people and carries no row values. ``event_id`` is set if the cause is ``EVENT``. ``too_slow``
    says whether the time budget ended the fold.
    """

    cause: Cause
    message: str
    event_id: str | None = None
    too_slow: bool = False


class WindowSize:
    """The size of the next window: shorter after a failure, longer again after success.

    Args:
        most: positions in a window, at the most.
        usual: positions with which it begins, and below which it doesn't shrink because a window took long; None for
            ``most``.
        budget: seconds that a statement of the fold may take, or ``handle`` for one event.
        budget_setting: the environment variable that sets the budget, for messages.

    Attributes:
        positions: how many positions the next window has.

    """

    def __init__(self, most: int, budget: float, budget_setting: str, *, usual: int | None = None) -> None:
        self.positions = self._usual = most if usual is None else min(usual, most)
        self._most = most
        self._budget = budget
        self._budget_setting = budget_setting
        self._slow_event_at: int | None = None

    def succeeded(self, seconds: float, *, is_at_head: bool = False) -> None:
        """Grow after a window that was folded in so many seconds, or shrink to the usual size.

        Args:
            seconds: how long it took.
            is_at_head: whether no event is left to fold, so that the next window may be of any size.

        """
        self._slow_event_at = None
        if self.positions < self._usual:
            if seconds < self._budget * GROW_BELOW:
                self.positions = min(self.positions * 2, self._usual)
        elif is_at_head:
            self.positions = self._usual
        elif seconds > LONG_SECONDS:
            self.positions = max(self.positions // 2, self._usual)
        elif seconds < QUICK_SECONDS:
            self.positions = min(self.positions * 2, self._most)

    def shrink(self, positions: int, *, too_slow: bool) -> None:
        """Shrink after a window of so many positions failed."""
        self.positions = max(positions // (SHRINK_SLOW if too_slow else SHRINK_FAILED), 1)

    async def failed(
        self,
        conn: AsyncConnection[Any],
        lo: int,
        hi: int,
        error: BaseException,
        seconds: float,
        schema: str = LOG,
    ) -> WindowFailure:
        """Find out why the window lo < p <= hi failed, and set the size of the next one.

        Args:
            conn: a connection whose failed transaction was rolled back.
            lo: the position before the window.
            hi: the window's last position.
            error: what the fold raised.
            seconds: how long the window took until then.
            schema: where its events were read from.

        """
        missing = await find_missing_positions(conn, lo, hi, schema)
        if missing is None and isinstance(error, MissingPositions):  # they have become visible meanwhile
            missing = (error.first, error.last)
        if missing is not None:
            archived = await find_archived_error(conn, missing[0], _REBUILD_WITH_FILES)
            words = str(archived) if archived is not None else f"positions {missing[0]}..{missing[1]} missing"
            return WindowFailure(Cause.MISSING_POSITIONS, words)
        too_slow = fold_budget.is_too_slow(error, seconds, self._budget)
        words = self._describe(error, too_slow=too_slow)
        if hi - lo > 1 and (too_slow or not fold_budget.was_ended_by_others(error)):
            self.shrink(hi - lo, too_slow=too_slow)
            return WindowFailure(Cause.WINDOW_TOO_LONG, f"after position {lo}: {words}", too_slow=too_slow)
        if too_slow and self._slow_event_at != hi:
            self.positions, self._slow_event_at = 1, hi
            return WindowFailure(Cause.SLOW_ONCE, f"after position {lo}: {words}", too_slow=True)
        if not too_slow and not may_be_caused_by_an_event(error):
            return WindowFailure(Cause.NOT_AN_EVENT, f"after position {lo}: {words}")
        event_id = await fetch_value(conn, _EVENT_AT.format(sql.Identifier(schema, events.name)), [hi]) or "?"
        twice = ", twice" if too_slow else ""
        return WindowFailure(Cause.EVENT, f"event {event_id} at position {hi}: {words}{twice}", event_id, too_slow)

    def _describe(self, error: BaseException, *, too_slow: bool) -> str:
        if too_slow:
            return f"folding took longer than {self._budget:g} s ({self._budget_setting})"
        return storable(str(error)) if isinstance(error, HandleFailed) else describe_user_code_error(error)
