"""Reads the head of the log once all events up to it can be found, also on other servers."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from eventstore.distributed_log import wait_for_commits
from eventstore.event_reader import read_head


async def read_visible_head(conn: AsyncConnection[Any], *, is_distributed: bool) -> int:
    """Return the head; whoever searches up to it finds every event.

    Raises:
        UnfinishedCommit: the log is distributed, and a commit isn't finished in time.
        psycopg.Error: the database failed, or the connection.

    """
    head = await read_head(conn)
    # In this order: what is appended after the wait isn't visible on every server, but it is behind this head.
    if is_distributed:
        await wait_for_commits(conn)
    return head
