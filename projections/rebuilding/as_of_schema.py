"""The schema that an as-of fills: whether it may be created or replaced, and how the tables get into it.

Invariants. A schema is replaced only if its oid and the oids of its tables are those that an earlier as-of recorded,
and if it contains nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection, errors, sql
from sqlalchemy import Table

from eventstore.errors import describe
from eventstore.locks import AS_OF_LOCK, WAIT_FOR_SHARED_TRANSACTION_LOCK
from eventstore.postgres.connection import MAX_NAME_BYTES
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_row, fetch_value
from eventstore.postgres.session_settings import COMMIT_DURABLY
from projections.errors import UsageError
from projections.projection import Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.shadow import Shadow
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA, finish_table
from projections.registry import find_projections

_RESERVED = re.compile(
    r"public|eventstore|projections|projections_shadow|information_schema|pg_.*", re.IGNORECASE | re.DOTALL
)
_OID = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s"
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
_CREATED_BY_AS_OF = (
    "SELECT name, into_table_oids FROM projections.rebuilds"
    " WHERE into_schema = %s AND into_schema_oid = %s AND state = 'done'"
)
_TABLES = "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = %s AND oid = ANY(%s::oid[]) AND relkind = 'r'"
_TABLE_OIDS = (
    "SELECT array_agg(oid) FROM pg_catalog.pg_class WHERE relnamespace = %s AND relname = ANY(%s) AND relkind = 'r'"
)


def check_schema_name(into: str) -> None:
    """Refuse a name that can't be an as-of's schema.

    Raises:
        UsageError: it is reserved, too long, or can't be printed.

    """
    if _RESERVED.fullmatch(into):
        raise UsageError(f"--into {into}: this schema name is reserved; choose another name")
    # A command-line argument that isn't UTF-8 contains surrogates, which can't be printed.
    if not 1 <= len(into.encode(errors="surrogateescape")) <= MAX_NAME_BYTES or not into.isprintable():
        raise UsageError(f"--into takes a schema name of 1 to {MAX_NAME_BYTES} printable bytes")


async def check_replaceable(
    conn: AsyncConnection[Any], into: str, projections: Sequence[Projection], *, force: bool
) -> None:
    """Find out before the long work whether the schema can be created or replaced; change nothing.

    Raises:
        UsageError: it can't; the message says why.

    """
    with suppress(errors.LockNotAvailable):  # another session reads it, and may have ended when the work is done
        async with conn.transaction(force_rollback=True):
            await _remove(conn, into, projections, force=force)


async def move_tables(
    conn: AsyncConnection[Any], into: str, shadows: Sequence[Shadow], position: int, *, force: bool
) -> dict[str, int]:
    """Move the shadows' tables into their schema, in one transaction; returns the number of rows by table."""
    rows: dict[str, int] = {}
    async with conn.transaction():
        # Once the user has read that the schema exists, no crash may take it away.
        await conn.execute(COMMIT_DURABLY)
        # Until the commit nobody can be erased, and until now nobody was.
        await conn.execute(WAIT_FOR_SHARED_TRANSACTION_LOCK, [AS_OF_LOCK])
        await _remove(conn, into, [shadow.projection for shadow in shadows], force=force)
        await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(into)))
        oid = await _schema_oid(conn, into)
        for shadow in shadows:
            await shadow.lock()
            await shadow.check_erasures()
            for table in shadow.tables:
                rows[table.name] = await _move(conn, table.name, into)
                await finish_table(conn, table.to_metadata(table.metadata, schema=into))
            table_oids = await _table_oids(conn, oid, shadow.tables)
            await rebuild_history.record_as_of_done(conn, shadow.run_id, position, oid, table_oids)
        comment = f"Read models as of position {position}, as they were known then: projections rebuild --as-of."
        await conn.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(into), sql.Literal(comment)))
    return rows


async def _move(conn: AsyncConnection[Any], table: str, into: str) -> int:
    source = sql.Identifier(SHADOW_SCHEMA, table)
    await conn.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(source, sql.Identifier(into)))
    return int(await fetch_value(conn, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(into, table))) or 0)


async def _remove(conn: AsyncConnection[Any], into: str, projections: Sequence[Projection], *, force: bool) -> None:
    """Drop what an earlier as-of created, inside the caller's transaction; nothing that others put there is dropped."""
    await _check_may_create(conn, into, force=force)
    oid = await _schema_oid(conn, into)
    if oid is None:
        return
    try:
        for table in await _tables_of_as_of(conn, into, oid, projections):
            await conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(into, table)))
        await conn.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(into)))
    except errors.DependentObjectsStillExist as error:
        # The detail has names of tables, functions and the like.
        what = "; ".join((error.diag.message_detail or describe(error)).splitlines())
        raise UsageError(f"schema {into} can't be replaced, because it contains objects of others: {what}") from error


async def _check_may_create(conn: AsyncConnection[Any], into: str, *, force: bool) -> None:
    oid = await _schema_oid(conn, into)
    if oid is None:
        if not await fetch_value(conn, _MAY_CREATE):
            raise UsageError(
                "this role may not create schemas; ask the database's owner to run GRANT CREATE ON DATABASE"
            )
        return
    if await fetch_row(conn, _CREATED_BY_AS_OF, [into, oid]) is None:
        raise UsageError(f"schema {into} already exists and was not created by this command; choose another name")
    if not force:
        raise UsageError(f"schema {into} already exists; choose another name or use --force")


async def _tables_of_as_of(
    conn: AsyncConnection[Any], into: str, oid: int, projections: Sequence[Projection]
) -> list[str]:
    known = find_projections().projections | {one.name: one for one in projections}
    oids: list[int] = []
    for name, recorded in await fetch_all(conn, _CREATED_BY_AS_OF, [into, oid]):
        if recorded is not None:
            oids += recorded
        elif name in known:  # created before the tables were recorded
            oids += await _table_oids(conn, oid, known[name].tables)
    return await fetch_column(conn, _TABLES, [oid, oids])


async def _schema_oid(conn: AsyncConnection[Any], schema: str) -> int | None:
    row = await fetch_row(conn, _OID, [schema])
    return row[0] if row else None


async def _table_oids(conn: AsyncConnection[Any], schema: int | None, tables: Iterable[Table]) -> list[int]:
    return await fetch_value(conn, _TABLE_OIDS, [schema, [table.name for table in tables]]) or []
