"""The function that erases: it changes a person's events and nothing else of them, and only its owner may run it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, errors, sql

from eventstore.contracts import Event
from eventstore.erasure.erased_payload import erase_event
from eventstore.erasure.erasure_token import new_token_of_person
from eventstore.redecode import Redecoded, redecode
from tests import oracle, store
from tests.databases import Server
from tests.folding import append, new_record
from tests.queries import fetch_all
from tests.rebuilding import role

REFUSED = r"UPDATE on eventstore\.events is refused: events stay as they came"
TOKEN = new_token_of_person()
NUMBER = "12300000001"
PERMIT = "INSERT INTO eventstore.change_permits SELECT pg_current_xact_id()::text::bigint, 'erase'"
ERASE = "SELECT eventstore.erase_events(%s::bigint[], %s::text[], %s::bytea[])"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection of the tables' owner to a log of four events, two of them of the person."""
    async with store.connection(database_url) as conn:
        summary = oracle.Summary(3, 5, 2, 1, 2)
        await append(
            conn,
            new_record(oracle.DELIVERED, NUMBER),
            new_record(oracle.POLL_RESPONSE, NUMBER, options=("yes", "no")),
            new_record(oracle.DELIVERED, "12300000002"),
            new_record(oracle.COMPLETED, None, summary=summary),
        )
        yield conn


async def rows(conn: AsyncConnection) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return await fetch_all(cursor, "SELECT * FROM eventstore.events ORDER BY position")


def as_event(row: dict[str, Any]) -> Event:
    return Event(**{name: row[name] for name in Event._fields})


async def test_events_get_the_token_and_are_recorded(conn: AsyncConnection) -> None:
    before = await rows(conn)
    erased = [erase_event(as_event(row), TOKEN) for row in before[:2]]
    changed = await store.value(conn, ERASE, [1, 2], [TOKEN, TOKEN], [event.payload for event in erased])
    assert changed == 2
    changes = {"ppnum": TOKEN, "message_id": None}
    expected = [row | changes | {"payload": event.payload} for row, event in zip(before, erased, strict=False)]
    assert await rows(conn) == [*expected, *before[2:]]
    known = await fetch_all(conn, "SELECT event_id, token FROM eventstore.erased_events ORDER BY event_id")
    assert known == [(row["event_id"], TOKEN) for row in before[:2]]
    assert await store.value(conn, "SELECT count(*) FROM eventstore.change_permits") == 0
    assert await redecode(conn, on_progress=lambda _position, _head: None) == Redecoded(read=4)


@pytest.mark.parametrize(
    ("position", "token", "payload"),
    [
        (1, "12300000009", b"12300000009"),
        (1, "", b""),
        (1, None, b""),
        (1, TOKEN.lower(), TOKEN.lower().encode()),
        (1, TOKEN, b"without the token"),
        (4, TOKEN, TOKEN.encode()),  # it has no recipient
    ],
    ids=["another number", "no number", "null", "not a token", "another payload", "no recipient"],
)
async def test_the_function_writes_nothing_but_tokens(
    conn: AsyncConnection, position: int, token: str | None, payload: bytes
) -> None:
    before = await rows(conn)
    with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=REFUSED):
        await conn.execute(ERASE, [[position], [token], [payload]])
    assert await rows(conn) == before


async def test_a_token_stays(conn: AsyncConnection) -> None:
    erased = erase_event(as_event((await rows(conn))[0]), TOKEN)
    await conn.execute(ERASE, [[1], [TOKEN], [erased.payload]])
    before = await rows(conn)
    other = new_token_of_person()
    with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=REFUSED):
        await conn.execute(ERASE, [[1], [other], [erase_event(erased, other).payload]])
    assert await rows(conn) == before


async def test_a_replaced_function_can_change_no_other_column(conn: AsyncConnection, subtests: pytest.Subtests) -> None:
    """The owner may replace the function; the trigger then still refuses every change that isn't an erasure."""
    before = await rows(conn)
    names = [name for name in before[0] if name not in ("ppnum", "message_id", "payload")]
    erase = sql.SQL("ppnum = {token}, payload = convert_to({token}, 'UTF8'), message_id = NULL").format(
        token=sql.Literal(TOKEN)
    )
    others = {"poll_options": "ARRAY['x']", "received_at": "now()", "occurred_at": "now()"}
    for name in names:
        value = others.get(name) or ("99" if isinstance(before[0][name], int | None) else "'x'")
        if name in ("send_request_id", "error_code", "poll_id"):
            value = "'x'"
        elif name.endswith("_at"):
            value = "now()"
        with subtests.test(name):
            statement = sql.SQL("UPDATE eventstore.events SET {}, {} = {} WHERE position = 1").format(
                erase, sql.Identifier(name), sql.SQL(value)
            )
            await replace_function(conn, statement)
            with pytest.raises(errors.ModifyingSqlDataNotPermitted, match=REFUSED):
                await conn.execute(ERASE, [[], [], []])
    for text in (
        "DELETE FROM eventstore.events WHERE position = 1",
        "TRUNCATE eventstore.events",
        "UPDATE eventstore.events SET message_id = 'x' WHERE position = 1",
    ):
        with subtests.test(text):
            await replace_function(conn, sql.SQL(text))
            with pytest.raises(errors.ModifyingSqlDataNotPermitted, match="is refused: events stay as they came"):
                await conn.execute(ERASE, [[], [], []])
    assert await rows(conn) == before


async def replace_function(conn: AsyncConnection, statement: sql.Composable) -> None:
    body = sql.SQL("BEGIN {}; {}; RETURN 1; END").format(sql.SQL(PERMIT), statement)
    await conn.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION eventstore.erase_events(positions bigint[], tokens text[], payloads bytea[])"
            " RETURNS bigint LANGUAGE plpgsql AS {}"
        ).format(sql.Literal(body.as_string(conn)))
    )


async def test_nobody_else_may_run_it(conn: AsyncConnection, database_url: str, postgres: Server) -> None:
    before = await rows(conn)
    async with role(postgres, database_url) as other:
        await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA eventstore TO {}").format(sql.Identifier(other.name)))
        async with store.connection(other.url) as session:
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function erase_events"):
                await session.execute(ERASE, [[1], [TOKEN], [TOKEN.encode()]])
    assert await rows(conn) == before
