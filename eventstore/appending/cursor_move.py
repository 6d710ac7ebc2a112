"""Moves an app's cursor in the transaction of an append, with a fencing token that detects lost commits.

Invariants. A follower moves its cursor only from the state that its own last commit left: each move writes a random
token, and the next move names it. If the database lost committed transactions (a standby was promoted before it had
received them, or a backup was restored), its token is another one. Then the append fails, and the lost events are
received again instead of being skipped.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from psycopg import AsyncConnection

from eventstore.errors import AlreadyAppended, CommitsLost, DatabaseError, LeadershipLost
from eventstore.postgres.queries import fetch_row

MOVE_CURSOR = (
    "UPDATE eventstore.cursors SET last_event_id = coalesce(%(event_id)s, last_event_id),"
    " last_received_at = clock_timestamp(), last_error = NULL, last_error_at = NULL, fence = %(token)s"
    " WHERE app = %(app)s AND epoch = %(epoch)s AND fence = coalesce(%(after)s, fence)"
)
"""Moves a cursor; its parameters are the fields of :class:`CursorMove`. Unless it updates one row, the append fails."""
_CURSOR_STATE = "SELECT epoch, fence FROM eventstore.cursors WHERE app = %s"


class CursorMove(NamedTuple):
    """Where an app's cursor goes with a batch.

    Attributes:
        app: whose cursor.
        epoch: the epoch that this follower got when it took the app over.
        event_id: the last ULID received; None when the batch had none.
        token: the fencing token that this move writes: a random number, the same when the batch is tried again.
        after: the token of this follower's last committed move; None moves the cursor from any state of the epoch.
        head: the last position that this follower knows to be committed.

    """

    app: str
    epoch: int
    event_id: str | None
    token: int = 0
    after: int | None = None
    head: int = 0


def new_token() -> int:
    """Return a fencing token: a random number that no other move of a cursor has."""
    return secrets.randbits(62) + 1


async def move_cursor(conn: AsyncConnection, cursor: CursorMove) -> None:
    """Move a cursor in the current transaction.

    Raises:
        LeadershipLost: the cursor's epoch is no longer this follower's.
        CommitsLost: the database lost what this follower had committed.
        AlreadyAppended: an earlier attempt at the same batch was committed.

    """
    moved = await conn.execute(MOVE_CURSOR, cursor._asdict())
    if moved.rowcount != 1:
        raise await why_not_moved(conn, cursor)


async def why_not_moved(conn: AsyncConnection, cursor: CursorMove) -> DatabaseError:
    """Return the error that says why the cursor is not in the state that a move started from."""
    row = await fetch_row(conn, _CURSOR_STATE, [cursor.app])
    if row is None:
        return LeadershipLost(cursor.app, "its cursor was deleted from the database")
    epoch, fence = row
    if epoch > cursor.epoch or (epoch == cursor.epoch and cursor.after is None):
        return LeadershipLost(cursor.app)
    if epoch == cursor.epoch and fence == cursor.token:
        return AlreadyAppended(cursor.app)
    return CommitsLost(cursor.app)
