"""An appender that freezes before any of its messages to Postgres blocks no app for long."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from itertools import count

import psycopg

from eventstore.appending.append import Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.errors import LeadershipLost
from eventstore.ingest.app_lease import hold_lease
from eventstore.ingest.context import IngestContext
from eventstore.waits import Waits
from tests import store
from tests.fault.append_child import append_all, batches, name_of
from tests.fault.forking_process import exit_code_of_child, forking_process, start_child
from tests.fault.proxy import TERMINATE, PostgresProxy, target_of, through
from tests.queries import fetch_row

SHORT = Waits(append_lock=0.05)
BATCHES = 3
"""Of the appender's batches: one is probed, one is copied, and one fails in COPY."""


async def test_others_continue_after_a_freeze_before_any_message(database_url: str) -> None:
    async with PostgresProxy(*target_of(database_url)) as proxy, store.connection(database_url, "observer") as conn:
        url = through(database_url, proxy.port)
        appender = Appender(conn, SHORT)
        await store.set_epoch(conn, "other")
        frozen_at = 0
        for number in count(1):
            app, plan = name_of(number), batches(number)[:BATCHES]
            proxy.messages = 0

            def freeze(n: int, kind: bytes) -> bool:
                if n == number and kind != TERMINATE:  # noqa: B023 - called in this round only
                    proxy.pause()
                return True

            proxy.before = freeze
            await store.set_epoch(conn, app)
            # Only the client's side freezes; its session in Postgres has timeouts, as every session has.
            task = asyncio.create_task(append_all(url, number, SHORT, BATCHES))
            reached = asyncio.create_task(proxy.wait_for_pause())
            await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
            if not proxy.is_paused:
                reached.cancel()
                await asyncio.wait([reached])
                await task
                break
            frozen_at = number

            events = store.new_events(1, app="other")
            await appender.append(events, cursor=CursorMove("other", 1, events[0].event_id))
            async with asyncio.timeout(store.GIVE_UP), hold_lease(IngestContext(database_url, SHORT), app) as lease:
                for batch in plan:
                    await appender.append(
                        batch.events, rejected=batch.rejected, cursor=batch.cursor._replace(epoch=lease.epoch)
                    )
            assert await store.cursor_of(conn, app) == plan[-1].cursor.event_id

            # It continues, and finds that it no longer follows the app.
            proxy.before = None
            proxy.resume()
            with suppress(psycopg.Error, LeadershipLost):
                await task
            await proxy.wait_for_disconnect()
            assert await fetch_row(conn, store.CURSOR_AND_IS_GAPLESS, [app]) == (plan[-1].cursor.event_id, True)
        await proxy.wait_for_disconnect()
        assert proxy.messages <= number, "one of the messages was never reached"
        assert frozen_at == number - 1 > 50


async def test_a_frozen_process_is_terminated_and_writes_nothing_when_it_continues(database_url: str) -> None:
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        forking_process("tests.fault.append_child", database_url) as process,
        store.connection(database_url, "observer") as conn,
    ):
        number, app = 1, name_of(1)
        await store.set_epoch(conn, app)
        proxy.pause()
        pid = await start_child(process, f"{number} {through(database_url, proxy.port)}")

        def freeze_process(_n: int, kind: bytes) -> bool:
            if kind == b"c":  # the end of its first COPY, which is not forwarded
                os.kill(pid, signal.SIGSTOP)
                proxy.pause()
            return True

        proxy.before = freeze_process
        proxy.resume()
        async with asyncio.timeout(store.GIVE_UP):
            await proxy.wait_for_pause()
        assert await store.value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", app) == 1
        appender = Appender(conn, SHORT)
        assert (await appender.append(store.new_events(1))).head == 1
        await store.wait_until_session_ended(conn, app)

        proxy.before = None
        os.kill(pid, signal.SIGCONT)
        proxy.resume()
        assert await exit_code_of_child(process) != 0
        assert await store.count_gapless(conn) == 1
        assert await store.cursor_of(conn, app) is None
