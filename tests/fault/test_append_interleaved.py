"""Another appender may commit between any two messages of an append: both batches are stored without gaps."""

from __future__ import annotations

import asyncio
from itertools import count

from eventstore.waits import Waits
from tests import store
from tests.fault.append_child import append_all, batches, name_of
from tests.fault.proxy import TERMINATE, PostgresProxy, target_of, through
from tests.queries import fetch_row

PATIENT = Waits(append_lock=30)


async def test_another_append_may_commit_between_any_two_messages(database_url: str) -> None:
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        store.connection(database_url, "observer") as conn,
        store.appender(database_url, "other", PATIENT) as other,
    ):
        url = through(database_url, proxy.port)
        others, waited = 0, 0
        for number in count(1):
            proxy.messages = 0

            def hold(n: int, kind: bytes) -> bool:
                if n == number and kind != TERMINATE:  # noqa: B023 - called in this round only
                    proxy.pause()
                return True

            proxy.before = hold
            await store.set_epoch(conn, name_of(number))
            held = asyncio.create_task(append_all(url, number, PATIENT))
            reached = asyncio.create_task(proxy.wait_for_pause())
            await asyncio.wait([held, reached], return_when=asyncio.FIRST_COMPLETED)
            if not proxy.is_paused:
                reached.cancel()
                await asyncio.wait([reached])
                await held
                break

            # Between two messages the other appender commits, or waits for the lock.
            task = asyncio.create_task(other.append(store.new_events(2, app="other")))
            waiting = asyncio.create_task(store.wait_for_append_lock_waiters(conn))
            done, _ = await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            waited += task not in done
            waiting.cancel()
            await asyncio.wait([waiting])
            proxy.resume()
            await asyncio.gather(held, task)
            others += 2
            last = batches(number)[-1].cursor.event_id
            assert await fetch_row(conn, store.CURSOR_AND_IS_GAPLESS, [name_of(number)]) == (last, True)
        await proxy.wait_for_disconnect()
        assert proxy.messages <= number, "one of the messages was never reached"
        new = len({event.event_id for batch in batches(0) for event in batch.events})
        assert await store.count_gapless(conn) == others + number * new
        assert 0 < waited < number - 1
