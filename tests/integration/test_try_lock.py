"""A lock is tried, and a session that holds it is named; a holder that just released it is no reason to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.consuming.consumer_session import open_session
from eventstore.ingest.app_lease import hold_lease
from eventstore.ingest.context import IngestContext
from eventstore.locks import (
    IMPORT_LOCK,
    RELEASE_SESSION_LOCKS,
    TRY_SESSION_LOCK,
    TRY_SHARED_SESSION_LOCK,
    TRY_SHARED_TRANSACTION_LOCK,
    TRY_TRANSACTION_LOCK,
    app_lock,
    consumer_lock,
)
from eventstore.postgres import lock_holder
from eventstore.postgres.lock_holder import find_holder_names, try_lock
from eventstore.postgres.session_lock import hold_lock
from tests import store
from tests.following import QUICK
from tests.meanwhile import let_happen
from tests.store import APP

KEY = 7
ALONE, SHARED = [TRY_SESSION_LOCK, TRY_TRANSACTION_LOCK], [TRY_SHARED_SESSION_LOCK, TRY_SHARED_TRANSACTION_LOCK]


@asynccontextmanager
async def released_at_the_look(url: str, key: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Hold a lock until somebody who didn't get it looks who holds it; yields what the holder did."""
    done: list[str] = []
    async with store.connection(url, "the last holder") as other:

        async def release() -> None:
            await other.execute(RELEASE_SESSION_LOCKS)
            done.append("released")

        await other.execute(TRY_SESSION_LOCK, [key])
        let_happen(monkeypatch, release, lock_holder, "fetch_row")
        yield done


@pytest.mark.parametrize("statement", [*ALONE, *SHARED])
async def test_the_session_that_holds_a_lock_is_named(database_url: str, conn: AsyncConnection, statement: str) -> None:
    async with store.connection(database_url, "the holder") as other, conn.transaction():
        await other.execute(TRY_SESSION_LOCK, [KEY])
        assert await try_lock(conn, statement, KEY) == "the holder"
        await other.execute(RELEASE_SESSION_LOCKS)
        assert await try_lock(conn, statement, KEY) is None
        assert await find_holder_names(conn, {"it": KEY}) == {"it": conn.info.parameter_status("application_name")}


async def test_a_session_without_a_name_is_named_by_its_process(database_url: str, conn: AsyncConnection) -> None:
    async with store.connection(database_url) as other:
        await other.execute("SET application_name = ''")
        await other.execute(TRY_SESSION_LOCK, [KEY])
        nameless = f"backend {other.info.backend_pid}"
        assert await try_lock(conn, TRY_SESSION_LOCK, KEY) == nameless
        assert await find_holder_names(conn, {"it": KEY}) == {"it": nameless}


@pytest.mark.parametrize("statement", [*ALONE, *SHARED])
async def test_a_lock_that_is_released_after_the_attempt_is_acquired(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    async with released_at_the_look(database_url, KEY, monkeypatch) as done, conn.transaction():
        assert await try_lock(conn, statement, KEY) is None
        assert done == ["released"]


async def test_a_session_that_shares_a_lock_stops_nobody_who_shares_it(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.connection(database_url, "alone") as alone, store.connection(database_url, "sharing") as sharing:

        async def make_room_for_the_other() -> None:
            await alone.execute(RELEASE_SESSION_LOCKS)
            await sharing.execute(TRY_SHARED_SESSION_LOCK, [KEY])

        await alone.execute(TRY_SESSION_LOCK, [KEY])
        let_happen(monkeypatch, make_room_for_the_other, lock_holder, "fetch_row")
        assert await try_lock(conn, TRY_SHARED_SESSION_LOCK, KEY) is None
        assert await try_lock(conn, TRY_SESSION_LOCK, KEY) == "sharing"


async def test_a_lock_whose_holder_is_never_found_is_given_up(
    database_url: str, conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def find_nobody(*_: object) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(lock_holder, "fetch_row", find_nobody)
    async with store.connection(database_url) as other:
        await other.execute(TRY_SESSION_LOCK, [KEY])
        assert await try_lock(conn, TRY_SESSION_LOCK, KEY) == "another session"
    assert looks == lock_holder.ATTEMPTS


async def test_a_command_starts_if_the_holder_just_ended(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        released_at_the_look(database_url, KEY, monkeypatch) as done,
        hold_lock(database_url, KEY, name="mine", what="it", waits=QUICK) as conn,
    ):
        assert done == ["released"]
        assert await find_holder_names(conn, {"it": KEY}) == {"it": "mine"}


@pytest.mark.parametrize("key", [app_lock(APP), IMPORT_LOCK], ids=["another follower", "an import"])
async def test_a_follower_takes_an_app_over_at_once_if_the_holder_just_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch, key: int
) -> None:
    stood_by: list[bool] = []
    with capture_logs() as logs:
        async with (
            released_at_the_look(database_url, key, monkeypatch) as done,
            hold_lease(IngestContext(database_url, QUICK), APP, lambda: stood_by.append(True)) as lease,
        ):
            assert (done, lease.epoch) == (["released"], 1)
    assert stood_by == []
    assert logs == []


async def test_a_consumer_is_taken_over_at_once_if_the_holder_just_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stand_by(holder: str) -> bool:
        raise AssertionError(f"stood by for {holder}")

    async with released_at_the_look(database_url, consumer_lock("billing"), monkeypatch) as done:
        session = await open_session(database_url, "billing", QUICK, start=0, is_first=True, on_standby=stand_by)
        assert session is not None
        await session.close()
    assert done == ["released"]
