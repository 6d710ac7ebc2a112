"""Controlling a projection: waiting for it, pausing and resuming it, and skipping an event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from eventstore.appending.quarantine import Rejected
from projections.errors import ProjectionsError, UsageError
from projections.migrating.metadata import READ_MODELS
from projections.running import checkpoint, control
from projections.running.control import find_last_event_id, skip, wait_until_folded
from projections.running.window_step import Step
from tests import folding, store
from tests.folding import (
    DIVIDES_BY_ZERO,
    NewerWatched,
    Watched,
    append,
    checkpoint_row,
    fold,
    new_record,
    worker,
    worker_connection,
)

NAMES = [projection.name for projection in READ_MODELS]
VERSIONS = {projection.name: projection.version for projection in READ_MODELS}


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        await folding.create_watched_table(conn)
        yield conn


async def test_waiting_ends_when_every_projection_has_folded_the_event(
    database_url: str, conn: AsyncConnection
) -> None:
    record = new_record()
    async with store.connection(database_url, "waiting") as own:
        waiting = asyncio.create_task(wait_until_folded(own, VERSIONS, record.event_id, 60))
        await append(conn, new_record(), record)
        for projection in READ_MODELS:
            assert not waiting.done()
            await folding.fold_all(database_url, [projection])
        assert await waiting == 2


@pytest.mark.oldest
async def test_an_event_that_is_never_stored_ends_the_wait_with_an_error(conn: AsyncConnection) -> None:
    with pytest.raises(ProjectionsError, match=r"event 01\w+: not stored after 0 s; is projections run"):
        await wait_until_folded(conn, VERSIONS, store.next_ulid(), 0)


async def test_projections_that_have_not_folded_the_event_are_named(database_url: str, conn: AsyncConnection) -> None:
    record = new_record()
    await append(conn, record)
    with pytest.raises(
        ProjectionsError, match="not folded by consent_registry, people, poll_tallies, request_status after"
    ):
        await wait_until_folded(conn, VERSIONS, record.event_id, 0)
    await folding.fold_all(database_url, READ_MODELS[1:])
    with pytest.raises(ProjectionsError, match=f"not folded by {NAMES[0]} after 0"):
        await wait_until_folded(conn, VERSIONS, record.event_id, 0)


async def test_a_quarantined_event_ends_the_wait_immediately(database_url: str, conn: AsyncConnection) -> None:
    event_id = store.next_ulid()
    bad = Rejected("shop", store.CHAT.value, b"\xff", "the bytes are no event", event_id)
    async with store.appender(database_url) as appender:
        await appender.append([], rejected=[bad])
    with pytest.raises(ProjectionsError, match="of app 'shop' is quarantined: the bytes are no event"):
        await wait_until_folded(conn, VERSIONS, event_id, folding.NEVER)


async def test_a_stored_event_with_a_quarantined_duplicate_is_waited_for(
    database_url: str, conn: AsyncConnection
) -> None:
    record = new_record()
    await append(conn, record)
    async with store.appender(database_url) as appender:
        assert (await appender.append([store.conflicting_event(folding.decode_record(record))])).quarantined == 1
    await folding.fold_all(database_url)
    assert await wait_until_folded(conn, VERSIONS, record.event_id, 0) == 1


async def test_stopped_projections_are_named(database_url: str, conn: AsyncConnection) -> None:
    poison = new_record(ppnum=DIVIDES_BY_ZERO)
    await append(conn, poison)
    await folding.fold_all(database_url)
    one = worker(database_url, Watched(), retry_first=folding.HALF_HOUR)
    async with worker_connection(one) as own:
        await fold(one, own)
    with pytest.raises(ProjectionsError, match=r"^watched has not folded .* and is failed: .*division by zero"):
        await wait_until_folded(conn, {**VERSIONS, "watched": 1}, poison.event_id, folding.NEVER)
    await control.pause(conn, "watched")
    with pytest.raises(ProjectionsError, match=r"^watched has not folded .* and is paused"):
        await wait_until_folded(conn, {**VERSIONS, "watched": 1}, poison.event_id, folding.NEVER)
    assert await wait_until_folded(conn, VERSIONS, poison.event_id, folding.NEVER) == 1


async def test_a_projection_that_stopped_after_the_event_does_not_end_the_wait(
    database_url: str, conn: AsyncConnection
) -> None:
    record = new_record()
    await append(conn, record)
    await folding.fold_all(database_url)
    await control.pause(conn, NAMES[0])
    assert await wait_until_folded(conn, VERSIONS, record.event_id, 0) == 1


@pytest.mark.parametrize("event_id", ["", "nonsense", "01hzzzzzzzzzzzzzzzzzzzzzzz", "8" + "Z" * 25])
async def test_waiting_for_an_invalid_event_id_is_refused(conn: AsyncConnection, event_id: str) -> None:
    with pytest.raises(UsageError, match="is not an event_id"):
        await wait_until_folded(conn, VERSIONS, event_id, folding.NEVER)


async def test_rows_of_an_older_version_do_not_count_as_folded(database_url: str, conn: AsyncConnection) -> None:
    record = new_record()
    await append(conn, record)
    await folding.fold_all(database_url, [Watched])
    assert await wait_until_folded(conn, {"watched": 1}, record.event_id, 0) == 1
    with pytest.raises(ProjectionsError, match=r"^watched has not folded .* and is waiting"):
        await wait_until_folded(conn, {"watched": 2}, record.event_id, folding.NEVER)


async def test_older_code_still_folds_and_waits_beside_newer_code(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [Watched])
    await append(conn, record := new_record())
    async with worker_connection(newer := worker(database_url, NewerWatched())) as own:
        assert await fold(newer, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "watched")).state == "waiting"
    with pytest.raises(ProjectionsError, match="not folded by watched after 0 s"):
        await wait_until_folded(conn, {"watched": 1}, record.event_id, 0)
    with pytest.raises(ProjectionsError, match="and is waiting"):
        await wait_until_folded(conn, {"watched": 2}, record.event_id, folding.NEVER)


async def test_the_last_event_id_is_found(conn: AsyncConnection) -> None:
    with pytest.raises(ProjectionsError, match="no event is stored yet"):
        await find_last_event_id(conn)
    await append(conn, new_record(), record := new_record())
    assert await find_last_event_id(conn) == record.event_id


# Pause and resume


@pytest.mark.oldest
async def test_a_projection_that_waits_for_a_rebuild_is_not_resumed(database_url: str, conn: AsyncConnection) -> None:
    await append(conn, new_record())
    await folding.fold_all(database_url, [Watched])
    newer = worker(database_url, NewerWatched())
    async with worker_connection(newer) as own:
        assert await fold(newer, own) is Step.STOPPED
    assert not await control.resume(conn, "watched")
    assert (await checkpoint_row(conn, "watched")).state == "waiting"
    assert await checkpoint.exists(conn, "watched")
    assert not await checkpoint.exists(conn, "nobody")


# Skip


async def test_invalid_skips_are_refused(database_url: str, conn: AsyncConnection) -> None:
    record, later = new_record(), new_record()
    await append(conn, record)
    with pytest.raises(UsageError, match="has not run yet"):
        await skip(conn, "watched", record.event_id, "because", 1)
    await folding.fold_all(database_url, [Watched])
    await append(conn, later)
    with pytest.raises(UsageError, match=f"event {(absent := new_record().event_id)} does not exist"):
        await skip(conn, "watched", absent, "because", 1)
    with pytest.raises(UsageError, match=r"has already folded event \w+ \(position 1\)"):
        await skip(conn, "watched", record.event_id, "because", 1)
    for why in ("", " \n"):
        with pytest.raises(UsageError, match="--why"):
            await skip(conn, "watched", later.event_id, why, 1)
    assert await store.value(conn, "SELECT count(*) FROM projections.skips") == 0
    assert await skip(conn, "watched", later.event_id, "because", 1) == 2


async def test_a_skip_retries_a_failed_projection_at_once_and_the_last_reason_is_kept(
    database_url: str, conn: AsyncConnection
) -> None:
    poison = new_record(ppnum=DIVIDES_BY_ZERO)
    await append(conn, poison, new_record(ppnum=DIVIDES_BY_ZERO))
    one = worker(database_url, Watched(), retry_first=folding.HALF_HOUR, retry_cap=folding.HALF_HOUR)
    async with worker_connection(one) as own:
        assert await fold(one, own) is Step.STOPPED
        for why in ("perhaps", "certainly"):
            await skip(conn, "watched", poison.event_id, why, 1)
        assert await fold(one, own) is Step.STOPPED
    now = await checkpoint_row(conn, "watched")
    assert (now.state, now.position, now.failures) == ("failed", 1, 1)
    assert await store.value(conn, "SELECT string_agg(why, ',') FROM projections.skips") == "certainly"


@pytest.mark.parametrize("text", ["", "x", "01ke57a22waxdsjx6fxbcfs5dg", "1", "\udcff", "7" * 27])
async def test_an_invalid_event_id_is_refused_before_any_lookup(conn: AsyncConnection, text: str) -> None:
    with pytest.raises(UsageError, match="is not an event_id; give an upper-case ULID"):
        await skip(conn, "watched", text, "why", 1)
    with pytest.raises(UsageError, match="is not an event_id; give an upper-case ULID"):
        await wait_until_folded(conn, VERSIONS, text, 0)
