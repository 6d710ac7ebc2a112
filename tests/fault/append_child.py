"""A process that forks one appender for each line it reads, so that a test can kill many appenders quickly.

Its argument is a URL. A line is a number and a URL. Run as ``python -m tests.fault.append_child``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import NamedTuple

from eventstore.appending.append import Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.quarantine import Rejected
from eventstore.contracts import Contract, Event, decode
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from tests import wire
from tests.fault.forking_process import fork_for_each_line

CHAT = Contract.CHAT_EXTERNAL
START = 1_767_225_600_000


class Batch(NamedTuple):
    """The arguments of one append."""

    events: list[Event]
    rejected: list[Rejected]
    cursor: CursorMove


def name_of(number: int) -> str:
    """Return an appender's app, which is also the name of its session."""
    return f"appender {number}"


def batches(number: int) -> list[Batch]:
    """Return the batches of an appender: new, repeated, contradicting and rejected messages, probed and copied."""
    app = name_of(number)

    def event(index: int, ppnum: str = "12300000001") -> Event:
        event_id = wire.ulid_of(START + index, tail=number)
        return decode(wire.event(event_id, recipient=wire.recipient(ppnum)), app, CHAT)

    def other(index: int) -> Event:
        return event(index, "12300000004")

    def bad(index: int) -> Rejected:
        return Rejected(app, CHAT.value, b"\xff%d" % index, "no event", wire.ulid_of(START + 100 + index, tail=number))

    def batch(events: list[Event], *rejected: Rejected) -> Batch:
        last = rejected[-1].event_id if rejected else events[-1].event_id
        return Batch(events, list(rejected), CursorMove(app, 1, last))

    return [
        batch([event(0), event(1), event(0), event(2), other(2)], bad(0)),  # probed, and clean
        batch([event(3), event(3), event(4), other(4)], bad(0)),  # copied
        batch([event(5), event(1), other(2), event(6)], bad(0), bad(1)),  # COPY fails on a duplicate, then probed
        batch([], bad(2)),
    ]


async def append_all(url: str, number: int, waits: Waits, up_to: int | None = None) -> None:
    """Append all batches, or the first ones, one after another on one connection."""
    conn = await connect(url, name=name_of(number), waits=waits)
    try:
        appender = Appender(conn, waits)
        for batch in batches(number)[:up_to]:
            await appender.append(batch.events, rejected=batch.rejected, cursor=batch.cursor)
    finally:
        await conn.close()


async def _work(line: str) -> None:
    number, url = line.split()
    await append_all(url, int(number), Waits())


def main() -> None:
    """Run an appender without batches, then fork one for each line."""
    asyncio.run(append_all(sys.argv[1], 0, Waits(), up_to=0))
    fork_for_each_line(_work)


if __name__ == "__main__":
    main()
