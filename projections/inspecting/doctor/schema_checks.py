"""Checks of the schema: its revision, what was changed or dropped since, indexes, and tables of projections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from sqlalchemy import Index, Table
from sqlalchemy.schema import CreateIndex

from eventstore.event_search import PERSON_REQUEST_INDEX
from eventstore.postgres.queries import fetch_all, fetch_column, fetch_value
from projections.folding.sql_text import DIALECT
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding
from projections.inspecting.health import find_schema_problems
from projections.migrating.metadata import target_metadata
from projections.migrating.revision_files import read_revisions
from projections.migrating.schema_drift import find_drift
from projections.migrating.schema_revision import VERSION_SCHEMA, VERSION_TABLE, head_revision

_EXISTS = "SELECT to_regclass(%s) IS NOT NULL"
_REVISION = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(VERSION_SCHEMA, VERSION_TABLE))
_INDEXES = """
SELECT n.nspname || '.' || c.relname, i.indisvalid AND i.indisready, i.indrelid
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS t ON t.oid = i.indrelid
WHERE n.nspname || '.' || t.relname = ANY(%s)
"""
# An index is not valid yet while it is created beside writers, or rebuilt. Which index that is, is shown to few roles;
# but all see the lock on its table. Few others hold such a lock for long, besides a vacuum and an analyze.
_TABLES_BEING_INDEXED = """
SELECT l.relation FROM pg_locks AS l
WHERE l.locktype = 'relation' AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock') AND l.granted
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND l.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum UNION ALL SELECT pid FROM pg_stat_progress_analyze)
"""
_PARTITIONED = """
SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'p' AND n.nspname = 'eventstore'
"""
_EXISTING = "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL"


class SchemaState(NamedTuple):
    """The revision of the database's schema (None for none), and the one that this code needs."""

    revision: str | None
    needed: str

    @property
    def is_current(self) -> bool:
        """Whether tables can be examined."""
        return self.revision == self.needed


async def read_schema_state(conn: AsyncConnection[Any]) -> SchemaState:
    """Read the revision of the schema.

    Raises:
        psycopg.Error: this role may not read it, or the database failed.

    """
    exists = await fetch_value(conn, _EXISTS, [f"{VERSION_SCHEMA}.{VERSION_TABLE}"])
    return SchemaState(await fetch_value(conn, _REVISION) if exists else None, head_revision())


def describe_schema_state(state: SchemaState) -> Iterator[Finding]:
    """Yield the finding of a schema that isn't the one that this code needs."""
    migrate = "projections migrate"
    if state.is_current:
        return
    if state.revision is None:
        yield Finding("schema_missing", "the database has no schema of ours yet", migrate)
    elif state.revision in read_revisions():
        sentence = f"the database has schema revision {state.revision}, this version needs {state.needed}"
        yield Finding("schema_older", sentence, migrate)
    else:
        sentence = (
            f"the database has schema revision {state.revision}, which this version ({state.needed}) doesn't know"
        )
        yield Finding("schema_newer", sentence, advice="upgrade this installation")


async def check_drift(exam: Examination) -> AsyncIterator[Finding]:
    """Find triggers, functions, views, keys, checks and columns that were changed or dropped."""
    for problem in find_schema_problems([drift.sentence for drift in await find_drift(exam.conn)]):
        yield problem.finding


async def check_indexes(exam: Examination) -> AsyncIterator[Finding]:
    """Find indexes that were dropped, or are invalid; the drift of the schema has those of keys.

    One may be dropped: without it only searches for a person or request are slower.
    """
    tables = {table.fullname: table for metadata in target_metadata for table in metadata.tables.values()}
    tables |= {table.fullname: table for one in exam.options.registry.projections.values() for table in one.tables}
    partitioned = {row[0] for row in await fetch_all(exam.conn, _PARTITIONED)}
    existing = {row[0] for row in await fetch_all(exam.conn, _EXISTING, [list(tables)])}
    found = {row[0]: row[1] for row in await fetch_all(exam.conn, _INDEXES, [list(tables)])}
    for index in _indexes_of(table for name, table in tables.items() if name in existing):
        name = f"{index.table.schema}.{index.name}" if index.table is not None else str(index.name)
        if name not in found and index.name != PERSON_REQUEST_INDEX:
            statement = CreateIndex(index).compile(dialect=DIALECT).string
            # Postgres can't create an index of a partitioned table beside writers.
            if index.table is None or index.table.fullname not in partitioned:
                statement = statement.replace("INDEX", "INDEX CONCURRENTLY", 1)
            command = f"{statement};"
            yield Finding("index_missing", f"index {name} is missing", command)
    if not all(found.values()):
        for name in await _find_invalid(exam, list(tables)):
            reindex = sql.SQL("REINDEX INDEX CONCURRENTLY {};").format(sql.Identifier(*name.split(".", 1)))
            yield Finding("index_invalid", f"index {name} is invalid, so no query uses it", reindex.as_string())


async def _find_invalid(exam: Examination, tables: Sequence[str]) -> list[str]:
    """Return the indexes that are invalid, and that nobody is creating."""
    # A creation that ends or begins beside the middle look is seen by one of the others.
    before = await fetch_column(exam.conn, _TABLES_BEING_INDEXED)
    indexes = await fetch_all(exam.conn, _INDEXES, [tables])
    busy = {*before, *await fetch_column(exam.conn, _TABLES_BEING_INDEXED)}
    return sorted(name for name, is_valid, table in indexes if not is_valid and table not in busy)


def _indexes_of(tables: Iterator[Table]) -> list[Index]:
    return sorted((index for table in tables for index in table.indexes), key=lambda index: str(index.name))
