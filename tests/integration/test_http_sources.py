"""What many pages cost the database, that its sessions only read, and what a failing route does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from structlog.testing import capture_logs

from eventstore.errors import UsageError
from projections.http import read_session, web_app
from projections.http.http_options import HttpOptions
from projections.http.read_session import ReadSession
from projections.http.status_source import Reading, StatusSource
from projections.http.web_context import WebContext
from projections.registry import find_projections
from tests import folding, store
from tests.http_requests import send_request
from tests.serving import served_run

PAGES = 100
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projections http %%'"
    " AND datname = current_database()"
)


async def test_a_hundred_pages_cost_the_database_what_one_does(database_url: str, conn: AsyncConnection) -> None:
    source = StatusSource(ReadSession(database_url, folding.QUICK, "status"), find_projections(), 0.02)
    assert await store.value(conn, SESSIONS) == 0, "nobody has looked yet"

    async def look(readings: int) -> list[Reading]:
        seen: list[Reading] = []
        async for reading in source.changes():
            seen.append(reading)
            if len(seen) == readings:
                break
        return seen

    pages = await asyncio.gather(*(look(3) for _ in range(PAGES)))
    assert await store.value(conn, SESSIONS) == 1
    seen = {reading.number for page in pages for reading in page}
    assert len(seen) <= 6, "each page has read for itself"
    assert all(reading.status is not None and reading.status.head == 0 for page in pages for reading in page)
    # One who goes away doesn't take the reading from the others.
    await asyncio.sleep(0.02)
    leaving, staying = (asyncio.create_task(source.current()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).error is None
    await source.close()
    await store.wait_until(lambda: _nobody(conn), "the end of the session")
    assert [reading async for reading in source.changes()] == []


async def _nobody(conn: AsyncConnection) -> bool:
    return await store.value(conn, SESSIONS) == 0


async def test_a_session_only_reads_and_gives_up_after_a_while(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_session, "STATEMENT_SECONDS", 0.1)
    session = ReadSession(database_url, folding.QUICK, "test")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with session.session() as conn:
            await conn.execute("DELETE FROM projections.checkpoints")
    with pytest.raises(psycopg.errors.QueryCanceled):
        async with session.session() as conn:
            await conn.execute("SELECT pg_sleep(600)")
    async with session.session() as conn:
        assert await store.value(conn, "SELECT 1") == 1
    await session.close()


async def test_a_route_that_fails_is_logged_without_its_path_and_an_open_stream_does_not_delay_the_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open = asyncio.Event()

    def broken_routes(context: WebContext) -> list[BaseRoute]:
        async def broken(_request: Request) -> Response:
            raise ValueError("a bug")

        async def feed(_request: Request) -> Response:
            async def lines() -> AsyncIterator[str]:
                async for reading in context.status.changes():
                    yield f"{reading.number}\n"
                    is_open.set()

            return StreamingResponse(lines())

        return [Route("/people/{ppnum}", broken), Route("/feed", feed)]

    monkeypatch.setattr(web_app, "ROUTES", (*web_app.ROUTES, broken_routes))
    with capture_logs() as logs:
        async with served_run(database_url) as served:
            answer = await served.get("people/12300000003")
            assert (answer.status, answer.text) == (500, "this failed; the log says why\n")
            assert (await served.get("healthz")).status == 200
            following = asyncio.create_task(send_request(served.url + "feed"))
            await is_open.wait()
    # The feed ended normally, because the server stopped.
    assert (await following).text.startswith("1\n")
    (line,) = (line for line in logs if line["event"] == "an http request failed")
    assert line["endpoint"] == "broken"
    assert "12300000003" not in str(line)


def test_addresses() -> None:
    parsed = {
        text: HttpOptions.parse(text) for text in ("127.0.0.2:1", ":8484", "8484", "[::1]:0", "localhost:80", "[::]:80")
    }
    assert {text: (one.host, one.port, one.is_loopback) for text, one in parsed.items()} == {
        "127.0.0.2:1": ("127.0.0.2", 1, True),
        ":8484": ("127.0.0.1", 8484, True),
        "8484": ("127.0.0.1", 8484, True),
        "[::1]:0": ("::1", 0, True),
        "localhost:80": ("localhost", 80, True),
        "[::]:80": ("::", 80, False),
    }
    assert parsed["[::1]:0"].url(5) == "http://[::1]:5/"
    for wrong in ("", ":", "[]:80", "::1:80", "host:port", "host:99999", "host:²"):
        with pytest.raises(UsageError, match="is not HOST:PORT"):
            HttpOptions.parse(wrong)
