"""Draws stories from the log for a test of a fold: a few events each, of one person or of one request.

Invariants. Only two stretches of positions are read, the newest and a random one, whatever the size of the log. A case
may be printed only after :func:`without_personal_data`: it replaces phone numbers by made-up ones that begin alike,
redacts other texts, and leaves out payloads.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from psycopg import AsyncConnection, sql

from eventstore.contracts import Event
from eventstore.distributed_log import event_of_row
from eventstore.postgres.queries import fetch_all
from eventstore.redaction.redact import redact
from projections.projection import Projection
from projections.testing.events import DEFAULT_PPNUM
from projections.testing.fold_cases import FoldCase, arrange

STRETCH = 20_000
"""Positions in a stretch of the log."""
STORIES_OF_STRETCH = 4
"""Stories of people, and as many of requests, that are drawn from a stretch."""
EVENTS_OF_STORY = 8
KEPT_DIGITS = 4
"""Digits of a phone number that are kept: its country, and a bit more. With those that replace the others, a made-up
number is too short to be one."""

# People and requests with many kinds of events come first, and among equals any.
_STORIES = sql.SQL("""
SELECT positions[1:{most}] FROM (
    SELECT array_agg(position ORDER BY position) AS positions, count(DISTINCT event_type) AS kinds,
           md5(min(event_id) || %(seed)s) AS any_of_them
    FROM eventstore.events
    WHERE position > %(lo)s AND position <= %(hi)s AND event_type = ANY(%(handles)s) AND {column} <> ''
          AND event_id <> ALL(%(skipped)s)
    GROUP BY app, {column}
) AS story
ORDER BY least(cardinality(positions), 2) DESC, kinds DESC, any_of_them
LIMIT {limit}
""")
_EVENTS = sql.SQL("SELECT position, {} FROM eventstore.events WHERE position = ANY(%s)").format(
    sql.SQL(", ").join(map(sql.Identifier, Event._fields))
)


async def draw_stories(
    conn: AsyncConnection[Any], projection: Projection, *, head: int, skipped: Collection[str], seed: int
) -> list[list[Event]]:
    """Return stories of different events of the handled types, in the order of the log; none if there are no events.

    Args:
        conn: a session in autocommit.
        projection: the projection that handles the events.
        head: the head of the log.
        skipped: event_ids that the projection skips.
        seed: the same log gives the same stories with the same seed.

    """
    ends = {head, random.Random(seed).randint(min(STRETCH, head), head)}  # noqa: S311 - a sample, not a secret
    chosen: dict[tuple[int, ...], None] = {}
    for hi in sorted(ends, reverse=True):
        values = {"lo": hi - STRETCH, "hi": hi, "seed": str(seed)}
        values |= {"handles": sorted(map(int, projection.handles)), "skipped": list(skipped)}
        for column in ("ppnum", "send_request_id"):
            query = _STORIES.format(
                most=sql.Literal(EVENTS_OF_STORY), column=sql.Identifier(column), limit=sql.Literal(STORIES_OF_STRETCH)
            )
            chosen |= dict.fromkeys(tuple(row[0]) for row in await fetch_all(conn, query, values))
    positions = sorted({position for story in chosen for position in story})
    rows = await fetch_all(conn, _EVENTS, [positions], binary=True)
    found = {row[0]: event_of_row(row[1:]) for row in rows}
    return [[found[position] for position in story] for story in chosen]


def without_personal_data(case: FoldCase) -> FoldCase:
    """Return the same case with events that may be printed."""
    numbers: dict[str, str] = {}
    for event in case.events:
        if event.ppnum:
            numbers.setdefault(event.ppnum, _made_up(event.ppnum, len(numbers)))
    events = [
        event._replace(
            ppnum=numbers.get(event.ppnum or "", event.ppnum),
            error_code=None if event.error_code is None else redact(event.error_code),
            poll_options=None if event.poll_options is None else [redact(option) for option in event.poll_options],
            payload=b"",
        )
        for event in case.events
    ]
    return arrange(events, case.sizes, twice=case.twice)


def _made_up(ppnum: str, number: int) -> str:
    """Return a number that begins alike; that of the tests stays, since it is made up."""
    return ppnum if ppnum == DEFAULT_PPNUM else f"{ppnum[:KEPT_DIGITS]}{number:03}"
