"""The programs of docs/consuming.md work as they stand there: nothing is lost, and a repetition can be recognised."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.consuming.consumers import read_consumer
from eventstore.contracts import Event as LogEvent
from eventstore.contracts import decode
from tests import store, wire
from tests.acceptance.command import QUICK
from tests.oracle import FAILED
from tests.queries import fetch_all
from tests.store import APP, CHAT, new_events, next_ulid

PAGE = (Path(__file__).parents[2] / "docs" / "consuming.md").read_text()
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"```sql\n(CREATE TABLE .*?)```", re.DOTALL)


class Endpoint:
    """A real HTTP server: what it received, in order, and how it answers."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.failures = 0
        self.poison = ""
        self.hangs_at = 0
        self.hangs = Event()
        self.url = ""

    def answer(self, event_id: str) -> int:
        self.received.append(event_id)
        if len(self.received) == self.hangs_at:
            self.hangs.set()
            Event().wait(store.GIVE_UP)
        if self.failures > 0:
            self.failures -= 1
            return 503
        return 422 if event_id == self.poison else 204

    @contextmanager
    def running(self) -> Iterator[None]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(endpoint.answer(self.headers["Idempotency-Key"]))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            server.block_on_close = False
            self.url = f"http://127.0.0.1:{server.server_port}/"
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


@asynccontextmanager
async def running_program(code: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, code, env={**os.environ, **QUICK, **environment}, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def failed_events(count: int) -> list[LogEvent]:
    recipient = wire.recipient("12300000001")
    return [decode(wire.event(next_ulid(), event_type=FAILED, recipient=recipient), APP, CHAT) for _ in range(count)]


async def test_the_outbox_loses_nothing_and_repeats_what_a_kill_left_unacknowledged(
    database_url: str, conn: AsyncConnection, appender: Appender, tmp_path: Path
) -> None:
    """The endpoint fails, refuses an event and hangs; the program is killed, started again and stopped."""
    code = tmp_path / "outbox.py"
    code.write_text(CODE.findall(PAGE.partition("<!-- outbox -->")[2])[0])
    await conn.execute(TABLE.findall(PAGE)[0].encode())
    events = failed_events(8)
    for event in events:
        await appender.append([*new_events(1), event])
    ids = [event.event_id for event in events]
    endpoint = Endpoint()
    endpoint.failures, endpoint.poison, endpoint.hangs_at = 2, ids[1], 6
    with endpoint.running():
        async with running_program(code, DATABASE_URL=database_url, ENDPOINT=endpoint.url) as first:
            assert await asyncio.to_thread(endpoint.hangs.wait, store.GIVE_UP)
            first.send_signal(signal.SIGKILL)
            await first.wait()
        assert endpoint.received == [ids[0]] * 3 + ids[1:4]
        assert (await read_consumer(conn, "webhook")).position == 6  # the third failed event

        async def is_done() -> bool:
            found = await read_consumer(conn, "webhook")
            return found.position >= 16 and found.held_by is not None

        async with running_program(code, DATABASE_URL=database_url, ENDPOINT=endpoint.url) as second:
            await store.wait_until(is_done, "all events delivered")
            await appender.append(last := failed_events(1))

            async def has_last() -> bool:
                return endpoint.received[-1] == last[0].event_id

            await store.wait_until(has_last, "the event that was appended meanwhile")
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
    # Only what the kill interrupted is repeated, and its event_id tells.
    assert endpoint.received[6:] == [ids[3], *ids[4:], last[0].event_id]
    assert list(dict.fromkeys(endpoint.received)) == [*ids, last[0].event_id]
    assert await fetch_all(conn, "SELECT event_id, status FROM public.webhook_refused") == [(ids[1], 422)]
    found = await read_consumer(conn, "webhook")
    assert (found.held_by, found.events) == (None, 9)


async def test_the_first_and_the_last_program_of_the_page_print_every_event(
    database_url: str, conn: AsyncConnection, appender: Appender, tmp_path: Path
) -> None:
    await appender.append(events := new_events(3))
    programs = [code for code in CODE.findall(PAGE) if "asyncio.run" in code and "ENDPOINT" not in code]
    assert len(programs) == 2
    for number, text in enumerate(programs):
        code = tmp_path / f"program_{number}.py"
        code.write_text(text)
        async with running_program(code, DATABASE_URL=database_url, PYTHONUNBUFFERED="1") as process:
            assert process.stdout is not None
            for at, event in enumerate(events, 1):
                line = await asyncio.wait_for(process.stdout.readline(), store.GIVE_UP)
                assert line.decode().split()[:2] == [str(at), event.event_id]
    await store.wait_until_session_ended(conn, "my script")
