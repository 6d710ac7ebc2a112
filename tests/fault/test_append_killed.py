"""An appender that is killed before any of its messages to Postgres leaves whole batches or nothing of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.contracts import Event
from tests import store
from tests.fault.appending import Batch, batches, name_of
from tests.fault.proxy import GOODBYE, PostgresProxy, target_of, through

ROOT = Path(__file__).resolve().parents[2]


class State(NamedTuple):
    """What lies in the tables for one app: payloads in order, the cursor, and how often bytes were quarantined."""

    payloads: list[bytes]
    cursor: str | None
    quarantined: Counter[bytes]


def states(plan: list[Batch]) -> list[State]:
    """The state before the first batch, and after each, by plain reasoning."""
    first: dict[str, Event] = {}
    quarantined: Counter[bytes] = Counter()
    found = [State([], None, Counter())]
    for batch in plan:
        quarantined.update(item.payload for item in batch.rejected)
        for event in batch.events:
            if first.setdefault(event.event_id, event).payload != event.payload:
                quarantined[event.payload] += 1
        found.append(State([event.payload for event in first.values()], batch.cursor.event_id, Counter(quarantined)))
    return found


async def state_of(conn: AsyncConnection, app: str) -> State:
    events = await conn.execute("SELECT payload FROM eventstore.events WHERE app = %s ORDER BY position", [app])
    bad = await conn.execute("SELECT payload, count FROM eventstore.quarantine WHERE app = %s", [app])
    cursor = await store.cursor_of(conn, app)
    assert cursor is None or isinstance(cursor, str)
    return State([row[0] for row in await events.fetchall()], cursor, Counter(dict(await bad.fetchall())))


class Forks:
    """The process that forks appenders."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def start(self, number: int, url: str) -> int:
        """Start an appender, and return its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number} {url}\n".encode())
        return await self.end()

    async def end(self) -> int:
        """Wait for the end of the appender, and return how it ended."""
        assert self._process.stdout is not None
        return int(await self._process.stdout.readline())


@asynccontextmanager
async def forks() -> AsyncIterator[Forks]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fault.appending",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Forks(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def test_a_kill_before_any_message_leaves_whole_batches_and_appending_again_the_full_set(
    database_url: str,
) -> None:
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        forks() as forked,
        store.connection(database_url, name="looking") as conn,
    ):
        url = through(database_url, proxy.port)
        appender = Appender(conn, store.QUICK)
        plan = batches(0)
        await store.set_epoch(conn, name_of(0))
        await forked.start(0, url)
        assert await forked.end() == 0
        assert await state_of(conn, name_of(0)) == states(plan)[-1]
        await proxy.disconnected()
        reached = Counter({len(plan): 1})

        for number in count(1):
            app, plan = name_of(number), batches(number)
            killed: list[int] = []
            pid = 0
            proxy.messages = 0

            def kill(n: int, kind: bytes) -> bool:
                # The goodbye ends the cycle; whoever said it may be gone already.
                if n != number or kind == GOODBYE:  # noqa: B023 - is called in this round only
                    return True
                killed.append(n)  # noqa: B023
                os.kill(pid, signal.SIGKILL)  # noqa: B023
                return False

            proxy.before = kill
            await store.set_epoch(conn, app)
            proxy.pause()
            pid = await forked.start(number, url)
            proxy.resume()
            ended = await forked.end()
            await proxy.disconnected()
            await store.wait_until_session_ended(conn, app)

            found, possible = await state_of(conn, app), states(plan)
            assert found in possible, f"killed before message {number}"
            reached[possible.index(found)] += 1
            await store.positions(conn)
            if not killed:
                assert ended == 0
                assert found == possible[-1]
                break
            assert ended == -signal.SIGKILL

            appender.probing = True
            for batch in plan:
                await appender.append(batch.events, rejected=batch.rejected, cursor=batch.cursor)
            again = await state_of(conn, app)
            assert again[:2] == possible[-1][:2]
            assert again.quarantined.keys() == possible[-1].quarantined.keys()
            await store.positions(conn)

        assert proxy.messages <= number, "a point was never hit"
        assert set(reached) == set(range(len(plan) + 1)), "a batch was never the last one"
