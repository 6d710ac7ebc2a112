"""Builds read models as they were known at a position, into a schema of their own, beside the live ones.

Invariants. The tables are filled out of sight and moved into their schema in one transaction, whole or not at all. A
schema is replaced only when it is the very one, by its oid, that this made, with the very tables, and when nobody else
has put anything into it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors, sql
from sqlalchemy import Table

from eventstore import ulid
from eventstore.errors import describe
from eventstore.event_reader import read_head
from eventstore.postgres.connection import MAX_NAME_BYTES
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_row, fetch_value
from eventstore.postgres.session_lock import run_under_locks, session_name
from eventstore.postgres.session_settings import COMMIT_DURABLY
from eventstore.waits import Waits
from projections.errors import ProjectionsError, UsageError
from projections.projection import Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.as_of_time import remarks_on
from projections.rebuilding.replay import Progress, rebuild_locks, replaying
from projections.rebuilding.shadow import SHADOW_SCHEMA, Shadow, finish_table
from projections.registry import find_projections
from projections.running import checkpoint
from projections.settings import ReplaySettings

_RESERVED = re.compile(
    r"public|eventstore|projections|projections_shadow|information_schema|pg_.*", re.IGNORECASE | re.DOTALL
)
_POSITION = "SELECT position FROM eventstore.events WHERE event_id = %s"
_RECEIVED = "SELECT received_at FROM eventstore.events WHERE position = %s"
_OID = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s"
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
_OURS = (
    "SELECT name, into_table_oids FROM projections.rebuilds"
    " WHERE into_schema = %s AND into_schema_oid = %s AND state = 'done'"
)
_TABLES = "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = %s AND oid = ANY(%s::oid[]) AND relkind = 'r'"
_OIDS = "SELECT array_agg(oid) FROM pg_catalog.pg_class WHERE relnamespace = %s AND relname = ANY(%s) AND relkind = 'r'"
_DONE = (
    "UPDATE projections.rebuilds SET state = 'done', finished_at = clock_timestamp(), position = %s,"
    " into_schema_oid = %s, into_table_oids = %s WHERE id = %s"
)


@dataclass(frozen=True, slots=True)
class Built:
    """What an as-of rebuild made: up to which position, when that was received (None for 0), and rows by table.

    ``remarks`` are sentences about the time that was asked for.
    """

    position: int
    received_at: datetime | None
    rows: dict[str, int]
    remarks: tuple[str, ...] = ()


async def build_as_of(
    url: str,
    projections: Sequence[Projection],
    moment: str,
    into: str,
    *,
    force: bool,
    waits: Waits,
    settings: ReplaySettings,
    progress: Progress,
) -> Built:
    """Build the tables of projections as they were known at a moment.

    Args:
        url: the database.
        projections: whose tables.
        moment: an event_id, for the log up to and including its position; or an ISO time with its zone, for the log up
            to the last position received by then.
        into: the schema to make.
        force: replace it, if this made it.
        waits: of the event store.
        settings: windows and locks.
        progress: is told how it goes on.

    Raises:
        UsageError: there is no such event, that is no time, or the schema can't be made or replaced.
        LockHeld: a rebuild, verify or as-of of one of the projections is at work.
        CannotFold: an event can't be folded; the message says which.
        psycopg.Error: the database failed, or the connection.

    """
    if _RESERVED.fullmatch(into):
        raise UsageError(f"--into {into} is not for you to fill: name a schema of your own")
    # What is no UTF-8 on the command line comes as something that can't be printed.
    if not 1 <= len(into.encode(errors="surrogateescape")) <= MAX_NAME_BYTES or not into.isprintable():
        raise UsageError(f"--into takes a schema's name, of 1 to {MAX_NAME_BYTES} bytes that can be printed")
    return await run_under_locks(
        url,
        rebuild_locks(projections),
        name=session_name(f"as-of {into}"),
        waits=waits,
        work=lambda: _build(url, projections, moment, into, force, waits, settings, progress),
    )


async def _build(
    url: str,
    projections: Sequence[Projection],
    moment: str,
    into: str,
    force: bool,  # noqa: FBT001 - handed on
    waits: Waits,
    settings: ReplaySettings,
    progress: Progress,
) -> Built:
    async with replaying(url, f"as-of {into}", waits, settings) as conn:
        position = await position_of(conn, moment)
        remarks = await remarks_on(conn, None if ulid.is_ulid(moment.strip()) else asked_time(moment), position)
        await _try_to_remove(conn, into, projections, force=force)
        shadows: list[tuple[int, Shadow]] = []
        try:
            for projection in projections:
                skipped = await checkpoint.read_skips(conn, projection.name, projection.version)
                run = await rebuild_history.next_run_id(conn)
                shadow = Shadow(conn, projection, skipped, run=run, logged=True, fold_timeout=settings.fold_timeout)
                await rebuild_history.record_start(
                    conn, run, projection, shadow.fingerprint, session_name(f"as-of {into}"), into=into
                )
                shadows.append((run, shadow))
                await shadow.begin()
                progress.phase(f"folding {projection.name}", target=position)
                await shadow.fold_to(position, settings.window, progress.at)
            progress.phase(f"moving the tables into {into}")
            while True:
                try:
                    rows = await _move_all(conn, into, shadows, position, force=force)
                    break
                except errors.LockNotAvailable:
                    progress.note(f"somebody reads {into} or {SHADOW_SCHEMA}; trying again")
        except BaseException as error:
            for run, shadow in shadows:
                await rebuild_history.record_failure(conn, run, "failed", error)
                await _drop(shadow)
            raise
        for _, shadow in shadows:
            await shadow.drop()
        return Built(position, await fetch_value(conn, _RECEIVED, [position]), rows, remarks)


async def _move_all(
    conn: AsyncConnection[Any], into: str, shadows: Sequence[tuple[int, Shadow]], position: int, *, force: bool
) -> dict[str, int]:
    """Move what was filled into its schema, in one transaction; returns the number of rows by table."""
    rows: dict[str, int] = {}
    async with conn.transaction():
        # Once it is said to be there, no crash may take it away again.
        await conn.execute(COMMIT_DURABLY)
        await _remove(conn, into, [shadow.projection for _, shadow in shadows], force=force)
        await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(into)))
        oid = await _oid(conn, into)
        for run, shadow in shadows:
            await shadow.hold()
            for table in shadow.tables:
                rows[table.name] = await _move(conn, table.name, into)
                await finish_table(conn, table.to_metadata(table.metadata, schema=into))
            await conn.execute(_DONE, [position, oid, await _oids(conn, oid, shadow.tables), run])
        said = f"Read models as of position {position}, as they were known then: projections rebuild --as-of."
        await conn.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(into), sql.Literal(said)))
    return rows


async def _drop(shadow: Shadow) -> None:
    """Leave nothing of an as-of that came to nothing, if that can be: nobody goes on with it."""
    with suppress(psycopg.Error, TimeoutError):
        async with asyncio.timeout(rebuild_history.RECORD_SECONDS):
            await shadow.drop()


async def position_of(conn: AsyncConnection[Any], moment: str) -> int:
    """Return the position that an event_id has, or the last one received by a time.

    ``received_at`` never falls as positions rise, so a time is looked up by halving, without an index on it.

    Raises:
        UsageError: there is no such event, or the text is neither.

    """
    moment = moment.strip()
    if ulid.is_ulid(moment):
        position = await fetch_value(conn, _POSITION, [moment])
        if position is None:
            raise UsageError(f"there is no event {moment}")
        return int(position)
    time = asked_time(moment)
    low, high = 0, await read_head(conn)
    while low < high:
        middle = (low + high + 1) // 2
        received_at = await fetch_value(conn, _RECEIVED, [middle])
        if received_at is None:
            raise ProjectionsError(f"position {middle} is missing: import it, then try again")
        if received_at <= time:
            low = middle
        else:
            high = middle - 1
    return low


def asked_time(text: str) -> datetime:
    """Return the time that a text gives, in UTC.

    Raises:
        UsageError: it is no time with its zone.

    """
    text = text.strip()
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    which = "an event_id is written in upper case" if ulid.is_ulid(text.upper()) else "give one or the other"
    raise UsageError(f"{text!r} is neither an event_id nor a time with its zone (2026-11-01T00:00:00Z): {which}")


async def _oid(conn: AsyncConnection[Any], schema: str) -> int | None:
    oid: int | None = await fetch_value(conn, _OID, [schema])
    return oid


async def _may_make(conn: AsyncConnection[Any], into: str, *, force: bool) -> None:
    oid = await _oid(conn, into)
    if oid is None:
        if not await fetch_value(conn, _MAY_CREATE):
            raise UsageError("this role may not create schemas: let the database's owner GRANT CREATE ON DATABASE")
        return
    ours = await fetch_row(conn, _OURS, [into, oid])
    if ours is None:
        raise UsageError(f"schema {into} is there, and was not made by this command: name another")
    if not force:
        raise UsageError(f"schema {into} is there: name another, or replace it with --force")


async def _remove(conn: AsyncConnection[Any], into: str, projections: Sequence[Projection], *, force: bool) -> None:
    """Drop what this made under that name, inside the caller's transaction; nothing that others put there goes."""
    await _may_make(conn, into, force=force)
    oid = await _oid(conn, into)
    if oid is None:
        return
    try:
        for table in await _tables_of_ours(conn, into, oid, projections):
            await conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(into, table)))
        await conn.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(into)))
    except errors.DependentObjectsStillExist as error:
        # The detail has names of tables, functions and the like.
        what = "; ".join((error.diag.message_detail or describe(error)).splitlines())
        raise UsageError(f"schema {into} can't be replaced: others have something in it or on it: {what}") from error


async def _tables_of_ours(
    conn: AsyncConnection[Any], into: str, oid: int, projections: Sequence[Projection]
) -> list[str]:
    known = find_projections().projections | {one.name: one for one in projections}
    oids: list[int] = []
    for name, noted in await fetch_all(conn, _OURS, [into, oid]):
        if noted is not None:
            oids += noted
        elif name in known:  # made before the tables were noted
            oids += await _oids(conn, oid, known[name].tables)
    return await fetch_column(conn, _TABLES, [oid, oids])


async def _oids(conn: AsyncConnection[Any], schema: int | None, tables: Iterable[Table]) -> list[int]:
    return await fetch_value(conn, _OIDS, [schema, [table.name for table in tables]]) or []


async def _try_to_remove(
    conn: AsyncConnection[Any], into: str, projections: Sequence[Projection], *, force: bool
) -> None:
    """Find out before the long work whether the schema can be made, or replaced, and leave all as it is."""
    with suppress(errors.LockNotAvailable):  # somebody reads it, and may be gone in the end
        async with conn.transaction(force_rollback=True):
            await _remove(conn, into, projections, force=force)


async def _move(conn: AsyncConnection[Any], table: str, into: str) -> int:
    source = sql.Identifier(SHADOW_SCHEMA, table)
    await conn.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(source, sql.Identifier(into)))
    return int(await fetch_value(conn, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(into, table))) or 0)
