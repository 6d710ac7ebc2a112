"""An appender that is killed before any of its messages to Postgres leaves whole batches only."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import count
from typing import NamedTuple

from psycopg import AsyncConnection, sql

from eventstore.appending.append import Appender
from eventstore.contracts import Event
from tests import store
from tests.fault.append_child import Batch, batches, name_of
from tests.fault.forking_process import exit_code_of_child, forking_process, start_child
from tests.fault.proxy import TERMINATE, PostgresProxy, target_of, through
from tests.queries import fetch_row


class State(NamedTuple):
    """The stored state of one app: payloads in order, the cursor, and how often each payload was quarantined."""

    payloads: list[bytes]
    cursor: str | None
    quarantined: Counter[bytes]


def states(plan: list[Batch]) -> list[State]:
    """Compute the state before the first batch, and after each."""
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


_STATE = sql.SQL(
    "SELECT ARRAY(SELECT payload FROM eventstore.events WHERE app = %(app)s ORDER BY position),"
    " (SELECT last_event_id FROM eventstore.cursors WHERE app = %(app)s),"
    " ARRAY(SELECT payload FROM eventstore.quarantine WHERE app = %(app)s ORDER BY id),"
    " ARRAY(SELECT count FROM eventstore.quarantine WHERE app = %(app)s ORDER BY id), {}"
).format(store.IS_GAPLESS)


async def state_of(conn: AsyncConnection, app: str) -> State:
    """Read the state of one app, and assert that the positions of all events are gapless."""
    row = await fetch_row(conn, _STATE, {"app": app})
    assert row is not None
    payloads, cursor, bad, counts, is_gapless = row
    assert is_gapless
    return State(payloads, cursor, Counter(dict(zip(bad, counts, strict=True))))


async def test_a_kill_before_any_message_leaves_whole_batches_and_a_second_append_completes_them(
    database_url: str,
) -> None:
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        forking_process("tests.fault.append_child", database_url) as process,
        store.connection(database_url, name="observer") as conn,
    ):
        url = through(database_url, proxy.port)
        appender = Appender(conn, store.QUICK)
        plan = batches(0)
        await store.set_epoch(conn, name_of(0))
        await start_child(process, f"0 {url}")
        assert await exit_code_of_child(process) == 0
        assert await state_of(conn, name_of(0)) == states(plan)[-1]
        await proxy.wait_for_disconnect()
        reached = Counter({len(plan): 1})

        for number in count(1):
            app, plan = name_of(number), batches(number)
            killed: list[int] = []
            pid = 0
            proxy.messages = 0

            def kill(n: int, kind: bytes) -> bool:
                # A Terminate message ends a connection; its sender may have ended already.
                if n != number or kind == TERMINATE:  # noqa: B023 - called in this round only
                    return True
                killed.append(n)  # noqa: B023
                os.kill(pid, signal.SIGKILL)  # noqa: B023
                return False

            proxy.before = kill
            await store.set_epoch(conn, app)
            proxy.pause()
            pid = await start_child(process, f"{number} {url}")
            proxy.resume()
            exit_code = await exit_code_of_child(process)
            await proxy.wait_for_disconnect()

            found, possible = await state_of(conn, app), states(plan)
            assert found in possible, f"killed before message {number}"
            reached[possible.index(found)] += 1
            if not killed:
                assert exit_code == 0
                assert found == possible[-1]
                break
            assert exit_code == -signal.SIGKILL

            appender.probing = True
            for batch in plan:
                await appender.append(batch.events, rejected=batch.rejected, cursor=batch.cursor)
            again = await state_of(conn, app)
            assert again[:2] == possible[-1][:2]
            assert again.quarantined.keys() == possible[-1].quarantined.keys()

        assert proxy.messages <= number, "one of the messages was never reached"
        assert set(reached) == set(range(len(plan) + 1)), "one of the batches was never the last one stored"
