"""The view read_model_freshness shows how far each read model is behind the log."""

from __future__ import annotations

from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

from projections.read_models.request_status import RequestStatus
from projections.running import control
from tests import folding, store
from tests.folding import append, new_record, worker, worker_connection
from tests.queries import fetch_all

NAME = RequestStatus.name


class Freshness(NamedTuple):
    """The only row of ``read_model_freshness``."""

    read_model: str
    position: int
    events_behind: int
    seconds_behind: float
    state: str


async def read_freshness(conn: AsyncConnection) -> Freshness:
    async with conn.cursor(row_factory=class_row(Freshness)) as cursor:
        rows = await fetch_all(cursor, "SELECT * FROM read_model_freshness")
    assert len(rows) == 1
    return rows[0]


async def since(conn: AsyncConnection, position: int) -> float:
    """Return the seconds since an event was received."""
    query = "SELECT extract(epoch FROM clock_timestamp() - received_at) FROM eventstore.events WHERE position = %s"
    return float(str(await store.value(conn, query, position)))


async def test_no_projection_is_behind_an_empty_log(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [RequestStatus])
    assert await read_freshness(conn) == (NAME, 0, 0, 0.0, "running")


async def test_seconds_are_since_the_first_unfolded_event_and_0_when_there_is_none(
    database_url: str, conn: AsyncConnection
) -> None:
    one = worker(database_url, RequestStatus(), batch_size=1)
    async with worker_connection(one) as own:
        for _ in range(3):
            await append(conn, new_record())
        for position in range(3):
            behind_at_least = await since(conn, position + 1)
            now = await read_freshness(conn)
            assert (now.position, now.events_behind, now.state) == (position, 3 - position, "running")
            assert behind_at_least <= now.seconds_behind <= await since(conn, position + 1)
            await one.step(own)
        assert await read_freshness(conn) == (NAME, 3, 0, 0.0, "running")


async def test_a_clock_that_was_set_back_gives_no_negative_seconds(database_url: str, conn: AsyncConnection) -> None:
    await folding.fold_all(database_url, [RequestStatus])
    await folding.insert_at(conn, 1, new_record(), received_in=3600)
    now = await read_freshness(conn)
    assert (now.events_behind, now.seconds_behind) == (1, 0.0)


async def test_the_state_is_that_of_the_checkpoint_and_missing_positions_count(
    database_url: str, conn: AsyncConnection
) -> None:
    await folding.fold_all(database_url, [RequestStatus])
    await folding.insert_at(conn, 3, new_record())
    await control.pause(conn, NAME)
    now = await read_freshness(conn)
    assert (now.position, now.events_behind, now.state) == (0, 3, "paused")
    assert now.seconds_behind > 0
