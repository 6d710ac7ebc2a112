"""A retry that is killed before any of its messages to Postgres leaves each message in quarantine or in the log."""

from __future__ import annotations

import os
import signal
from itertools import count

from psycopg import AsyncConnection, sql

from eventstore.appending.quarantine import Rejected
from tests import store
from tests.fault.forking_process import exit_code_of_child, forking_process, start_child
from tests.fault.proxy import TERMINATE, PostgresProxy, target_of, through
from tests.fault.retry_child import retry_app
from tests.queries import fetch_row
from tests.store import CHAT, conflicting_event, new_events

_PAYLOADS = sql.SQL(
    "SELECT ARRAY(SELECT payload FROM eventstore.quarantine WHERE app = %(app)s ORDER BY payload),"
    " ARRAY(SELECT payload FROM eventstore.events WHERE app = %(app)s ORDER BY payload), {}"
).format(store.IS_GAPLESS)


async def payloads_of(conn: AsyncConnection, app: str) -> tuple[list[bytes], list[bytes]]:
    """Return what an app has in quarantine and in the log, and assert that the positions of all events are gapless."""
    row = await fetch_row(conn, _PAYLOADS, {"app": app})
    assert row is not None
    kept, in_log, is_gapless = row
    assert is_gapless
    return kept, in_log


async def test_a_kill_before_any_message_loses_nothing_and_stores_nothing_twice(database_url: str) -> None:
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        forking_process("tests.fault.retry_child", database_url) as process,
        store.connection(database_url, name="observer") as conn,
        store.appender(database_url) as appender,
    ):
        url = through(database_url, proxy.port)
        outcomes: set[str] = set()
        for number in count(1):
            app = f"app-{number}"
            stored, *decodable = new_events(4, app=app)
            conflicting = conflicting_event(stored)
            await appender.append([stored])
            everything = [stored, *decodable, conflicting]
            await appender.append(
                [],
                rejected=[
                    Rejected(app, CHAT.value, event.payload, "an older decoder refused it", event.event_id)
                    for event in everything
                ],
            )
            killed: list[int] = []
            pid = 0
            proxy.messages = 0

            def kill(n: int, kind: bytes) -> bool:
                if n != number or kind == TERMINATE:  # noqa: B023 - called in this round only
                    return True
                killed.append(n)  # noqa: B023
                os.kill(pid, signal.SIGKILL)  # noqa: B023
                return False

            proxy.before = kill
            proxy.pause()
            pid = await start_child(process, f"{app} {url}")
            proxy.resume()
            exit_code = await exit_code_of_child(process)
            await proxy.wait_for_disconnect()

            found = await payloads_of(conn, app)
            before = (sorted(event.payload for event in everything), [stored.payload])
            after = ([conflicting.payload], sorted(event.payload for event in [stored, *decodable]))
            assert found in (before, after), f"killed before message {number}"
            outcomes.add("before" if found == before else "after")
            if not killed:
                assert (exit_code, found) == (0, after)
                break
            assert exit_code == -signal.SIGKILL
            assert await retry_app(database_url, app, store.QUICK) == (3 if found == before else 0)
            assert await payloads_of(conn, app) == after
        assert outcomes == {"before", "after"}
        assert number > 10, "the retry sent fewer messages than it needs"
