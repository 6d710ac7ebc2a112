"""An appender that freezes before any of its messages to Postgres blocks neither its app nor another one for long."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import psycopg

from eventstore.appending.append import Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.errors import LeadershipLost
from eventstore.ingest.app_lease import hold_lease
from eventstore.ingest.context import IngestContext
from eventstore.waits import Waits
from tests import store
from tests.fault.appending import append_all, batches, name_of
from tests.fault.proxy import GOODBYE, PostgresProxy, target_of, through

ROOT = Path(__file__).resolve().parents[2]
SHORT = Waits(append_lock=0.05)
BATCHES = 3
"""Of the appender's: one probed, one copied, one copied in vain."""


async def test_others_continue_after_a_freeze_before_any_message(database_url: str) -> None:
    async with PostgresProxy(*target_of(database_url)) as proxy, store.connection(database_url, "looking") as conn:
        url = through(database_url, proxy.port)
        appender = Appender(conn, SHORT)
        await store.set_epoch(conn, "other")
        frozen_at = 0
        for number in count(1):
            app, plan = name_of(number), batches(number)[:BATCHES]
            proxy.messages = 0

            def freeze(n: int, kind: bytes) -> bool:
                if n == number and kind != GOODBYE:  # noqa: B023 - is called in this round only
                    proxy.pause()
                return True

            proxy.before = freeze
            await store.set_epoch(conn, app)
            # What freezes is this side of the connection; its session has timeouts of its own, as every one has.
            task = asyncio.create_task(append_all(url, number, SHORT, BATCHES))
            reached = asyncio.create_task(proxy.paused())
            await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
            if not proxy.is_paused:
                reached.cancel()
                await asyncio.wait([reached])
                await task
                break
            frozen_at = number

            events = store.new_events(1, app="other")
            await appender.append(events, cursor=CursorMove("other", 1, events[0].event_id))
            async with asyncio.timeout(store.GIVE_UP / 6), hold_lease(IngestContext(database_url, SHORT), app) as taken:
                for batch in plan:
                    await appender.append(
                        batch.events, rejected=batch.rejected, cursor=batch.cursor._replace(epoch=taken.epoch)
                    )
            assert await store.cursor_of(conn, app) == plan[-1].cursor.event_id

            # It wakes up, and finds that it follows the app no more.
            proxy.before = None
            proxy.resume()
            with suppress(psycopg.Error, LeadershipLost):
                await task
            await store.wait_until_session_ended(conn, app)
            assert await store.cursor_of(conn, app) == plan[-1].cursor.event_id
            await store.positions(conn)
        await proxy.disconnected()
        assert proxy.messages <= number, "a point was never reached"
        assert frozen_at == number - 1 > 50


async def test_a_frozen_process_is_terminated_and_writes_nothing_when_it_wakes_up(database_url: str) -> None:
    async with PostgresProxy(*target_of(database_url)) as proxy, store.connection(database_url, "looking") as conn:
        number, app = 1, name_of(1)
        await store.set_epoch(conn, app)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fault.appending", cwd=ROOT, stdin=-1, stdout=-1
        )
        assert process.stdin is not None
        assert process.stdout is not None
        proxy.pause()
        process.stdin.write(f"{number} {through(database_url, proxy.port)}\n".encode())
        pid = int(await process.stdout.readline())

        def stop(_n: int, kind: bytes) -> bool:
            if kind == b"c":  # the end of its first COPY, which does not get through
                os.kill(pid, signal.SIGSTOP)
                proxy.pause()
            return True

        proxy.before = stop
        proxy.resume()
        async with asyncio.timeout(store.GIVE_UP):
            await proxy.paused()
        assert await store.value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", app) == 1
        appender = Appender(conn, SHORT)
        assert (await appender.append(store.new_events(1))).head == 1
        await store.wait_until_session_ended(conn, app)

        proxy.before = None
        os.kill(pid, signal.SIGCONT)
        proxy.resume()
        assert int(await process.stdout.readline()) != 0
        process.stdin.close()
        await process.wait()
        assert len(await store.positions(conn)) == 1
        assert await store.cursor_of(conn, app) is None
