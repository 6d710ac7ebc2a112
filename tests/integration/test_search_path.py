"""Folds call no function in schema public unless they name it with the schema."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from sqlalchemy import ColumnElement, Executable, func, insert, select

from projections.errors import CannotFold
from projections.projection import Projection, Window
from projections.read_models.poll_tallies import PollTallies
from projections.running.window_step import Step
from projections.testing import ProjectionKit, event
from tests import folding, hostile_database, oracle, rebuilding, store
from tests.databases import Server
from tests.folding import Watched, append, new_record, watched


@pytest.fixture
def somebody(postgres: Server, database_url: str) -> Iterator[str]:
    """The URL of a role that may only create objects in schema public, as every role could before PostgreSQL 15."""
    name, word = f"somebody_{secrets.token_hex(4)}", secrets.token_hex(8)
    postgres.execute("CREATE ROLE {} LOGIN PASSWORD {}", sql.Identifier(name), sql.Literal(word))
    with psycopg.connect(database_url) as owner:
        owner.execute("GRANT ALL ON SCHEMA public TO PUBLIC")
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"{name}:{word}@{parts.netloc.rpartition('@')[2]}").geturl()
    try:
        yield url
    finally:
        with psycopg.connect(url) as leaving:
            leaving.execute("DROP OWNED BY CURRENT_USER CASCADE")
        with psycopg.connect(database_url) as owner:
            owner.execute(sql.SQL("REVOKE SELECT ON eventstore.events FROM {}").format(sql.Identifier(name)))
        postgres.execute("DROP ROLE {}", sql.Identifier(name))


def create_trap_functions(url: str) -> str:
    """Create functions that a fold of poll answers prefers, and that grant this role a privilege; return its name."""
    with psycopg.connect(url) as conn:
        name = conn.info.user
        grant = sql.SQL("GRANT SELECT ON eventstore.events TO {}").format(sql.Identifier(name)).as_string()
        for function, result in (
            ("public.cardinality(text[]) RETURNS integer", "pg_catalog.cardinality($1)"),
            ("public.unnest(text[]) RETURNS SETOF text", "pg_catalog.unnest($1)"),
        ):
            gives = "RETURN QUERY SELECT" if "SETOF" in function else "RETURN"
            body = f"BEGIN {grant}; {gives} {result}; END"
            conn.execute(f"CREATE FUNCTION {function} LANGUAGE plpgsql AS $${body}$$".encode())
    return name


async def test_a_fold_runs_no_function_of_a_role_without_rights(
    database_url: str, conn: AsyncConnection, somebody: str
) -> None:
    name = create_trap_functions(somebody)
    may_read = "SELECT has_table_privilege(%s, 'eventstore.events', 'SELECT')"
    one = folding.worker(database_url, PollTallies())
    async with folding.worker_connection(one) as own:
        for options in (
            ("yes", "no"),
            (),
            ("no",),
        ):  # the first window statement by statement, the others by the session's function
            await append(conn, new_record(oracle.POLL_RESPONSE, options=options))
            assert await folding.fold(one, own) is Step.AT_HEAD
    await rebuilding.rebuild(database_url, PollTallies())
    assert (await rebuilding.verify(database_url, PollTallies())).equal
    assert await store.value(conn, may_read, name) is False
    await conn.execute("SELECT cardinality(ARRAY['a'])")
    assert await store.value(conn, may_read, name) is True, "the trap works in a session with public in its search path"


async def test_the_test_kit_folds_as_workers_do_in_a_hostile_database(database_url: str) -> None:
    hostile_database.set_traps(database_url)
    hostile_database.make_hostile(database_url)
    answers = [event(oracle.POLL_RESPONSE, poll_id="p", poll_options=["да", "no"]), event(oracle.POLL_RESPONSE)]
    async with ProjectionKit(database_url, PollTallies()) as kit:
        await kit.assert_same_for_every_order(answers)


class CallsFunction(Watched):
    """Writes the result of a function for each delivery."""

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        rows = select(e.c.app, e.c.event_id, e.c.ppnum, self.called(e.c.ppnum))
        return [insert(watched).from_select(["app", "event_id", "ppnum", "value"], rows)]

    def called(self, ppnum: ColumnElement[str]) -> ColumnElement[int]:
        return func.ours(ppnum)


class CallsQualifiedFunction(CallsFunction):
    """Calls the function with its schema."""

    name: ClassVar[str] = "watched"

    def called(self, ppnum: ColumnElement[str]) -> ColumnElement[int]:
        return func.public.ours(ppnum)


@asynccontextmanager
async def one_step(url: str, projection: Projection) -> AsyncIterator[Step]:
    one = folding.worker(url, projection)
    async with folding.worker_connection(one) as own:
        yield await folding.fold(one, own)


async def test_a_fold_names_the_schema_of_a_function_of_its_own(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_watched_table(conn)
    await conn.execute("CREATE FUNCTION public.ours(text) RETURNS integer LANGUAGE sql AS 'SELECT 7'")
    await append(conn, new_record())
    advice = "names outside pg_catalog need their schema, such as public.name"
    async with one_step(database_url, CallsFunction()) as step:
        assert step is Step.STOPPED
        assert str((await folding.checkpoint_row(conn, "watched")).last_error).endswith(f"(SQLSTATE 42883); {advice}")
    with pytest.raises(CannotFold, match=advice):
        await rebuilding.rebuild(database_url, CallsFunction())
    async with one_step(database_url, CallsQualifiedFunction()) as step:
        assert step is Step.AT_HEAD
    assert await store.value(conn, "SELECT value FROM public.watched") == 7
