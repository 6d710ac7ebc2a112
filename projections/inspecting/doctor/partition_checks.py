"""Checks that a partitioned log has the partition that comes after the one which its head is in."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import sql

from eventstore.event_reader import HEAD
from eventstore.partitions import LAST_PARTITION
from eventstore.postgres.queries import fetch_row
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

_LAST = sql.SQL("SELECT {} AS head, last.first_position, last.last_position FROM {} AS last").format(
    HEAD, LAST_PARTITION
)


async def check_partitions(exam: Examination) -> AsyncIterator[Finding]:
    """Find a log whose next partition could not be made ahead."""
    row = await fetch_row(exam.conn, _LAST)
    if row is None:
        return
    head, first, last = row
    if head >= first:
        room = max(last - head, 0)
        sentence = f"the log's last partition has room for {room:,} more events, and nobody could make the next one"
        command = sql.SQL("SELECT eventstore.make_partitions({});").format(head).as_string()
        yield Finding("partition_missing", sentence, command)
