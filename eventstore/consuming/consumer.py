"""Named consumers for programs: ``async for batch in consumer("billing", url)``.

Invariant. Each event is handed out at least once, and one process at a time has a consumer;
:mod:`eventstore.consuming.consumer_run` says how.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from typing import Literal

from eventstore.app_name import APP_NAME
from eventstore.consuming.batch import Batch
from eventstore.consuming.consumer_run import ConsumerOptions, ConsumerRun
from eventstore.consuming.log_head import POLL_SECONDS
from eventstore.consuming.page_reader import EventFilter, PageReader
from eventstore.errors import UsageError
from eventstore.waits import Waits, load_waits

CONSUMER_NAME = APP_NAME
"""The rule for the names of consumers is that for apps."""
BATCH_EVENTS = 1_000
BATCH_BYTES = 8 * 2**20


async def consumer(  # noqa: PLR0913 - all but two are optional, and given by name
    name: str,
    url: str,
    *,
    types: Collection[int] | None = None,
    apps: Collection[str] | None = None,
    start: int | Literal["beginning", "now"] = "beginning",
    batch_events: int = BATCH_EVENTS,
    batch_bytes: int = BATCH_BYTES,
    follow: bool = True,
    stop: asyncio.Event | None = None,
    poll: float = POLL_SECONDS,
    waits: Waits | None = None,
) -> AsyncGenerator[Batch]:
    """Yield the events after a durable checkpoint in batches, in commit order, each event at least once.

    Asking for the next batch acknowledges the last one: the checkpoint in ``eventstore.consumers`` then moves. Leaving
    the loop otherwise (``break``, an error, a cancellation, a kill) doesn't: what wasn't acknowledged is handed out
    again, to whoever consumes under this name next. ``batch.acknowledge()`` moves the checkpoint at once.

    One process at a time has a consumer; another one that asks for its first batch stands by until that process ends. A
    lost connection is opened again, with back-off, and a warning in the log ``eventstore.consumer``. While the program
    works on a batch, its event loop must run: if it is blocked for longer than ``PROJECTIONS_LEADER_TIMEOUT``, another
    process may take over.

    Args:
        name: the consumer: 1 to 63 letters, digits, '-', '_' or '.'.
        url: the database.
        types: the event types to hand out, such as ``EventType.RECIPIENT_FAILED``; None for all.
        apps: the apps to hand out; None for all.
        start: where a new consumer begins: at the first event, after the head as it is now, or after a position. It
            doesn't matter for a consumer that exists.
        batch_events: events of a batch, at the most.
        batch_bytes: bytes of payloads after which a batch ends; a larger event is a batch by itself.
        follow: whether to wait for new events at the head; False ends the loop there.
        stop: ends the loop once it is set, after the batch that the program works on was acknowledged.
        poll: seconds between two looks at the log when no notification comes.
        waits: the timeouts; None for those that the environment sets.

    Raises:
        UsageError: an argument is wrong, or the schema is older than this version.
        CheckpointNotInLog: the log was replaced, or lost the checkpoint's event.
        MissingPositions: the log lacks positions after the checkpoint.
        psycopg.Error: the database was unavailable at the first attempt to connect, or refuses something.

    """
    if CONSUMER_NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} can't name a consumer; use up to 63 letters, digits, '-', '_' or '.'")
    if batch_events < 1 or batch_bytes < 1 or not poll > 0:
        raise UsageError("batch_events and batch_bytes must be at least 1, and poll more than 0 seconds")
    if (types is not None and not types) or (apps is not None and not apps):
        raise UsageError("types and apps must name something; leave them out for all")
    if isinstance(apps, str):
        raise UsageError(f"apps is a list, such as [{apps!r}]")  # else each letter would be an app
    chosen = EventFilter(
        None if types is None else frozenset(_numbers(types)),
        None if apps is None else frozenset(apps),
        batch_events,
        batch_bytes,
    )
    options = ConsumerOptions(name, url, _start(start), follow, stop or asyncio.Event(), poll)
    run = ConsumerRun(options, PageReader(chosen), waits or load_waits())
    try:
        while (batch := await run.next_batch()) is not None:
            yield batch
    finally:
        await run.close()


def _numbers(types: Collection[int]) -> list[int]:
    """Return the numbers of event types."""
    try:
        return [int(number) for number in types]
    except (TypeError, ValueError):
        raise UsageError(f"types is a list, such as [EventType.RECIPIENT_FAILED], not {types!r}") from None


def _start(start: int | str) -> int | None:
    """Return the position after which a new consumer begins; None for the head."""
    if start == "beginning":
        return 0
    if start == "now":
        return None
    if isinstance(start, int) and start >= 0:
        return start
    raise UsageError(f"a consumer can't start at {start!r}; use 'beginning', 'now' or a position")
