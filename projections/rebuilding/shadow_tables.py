"""The schema and the tables of shadows: creating, finishing and dropping them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, LiteralString

from psycopg import AsyncConnection, errors, sql
from sqlalchemy import MetaData, String, Table
from sqlalchemy.schema import CreateIndex, CreateTable, DropTableComment, SetColumnComment, SetTableComment

from eventstore.postgres.queries import fetch_all, fetch_value
from projections.errors import ProjectionsError
from projections.folding.sql_text import compile_ddl
from projections.folding.table_copies import plain_copy
from projections.projection import READ_MODEL_SCHEMA

SHADOW_SCHEMA = "projections_shadow"

# The tables of these names and those with this comment, and whether only another role may drop them: that is the owner
# of the table or of its schema, and members of these roles.
_TO_DROP = (
    "SELECT name, EXISTS (SELECT FROM pg_catalog.pg_class AS c"
    " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = name"
    " AND NOT pg_has_role(c.relowner, 'USAGE') AND NOT pg_has_role(n.nspowner, 'USAGE'))"
    " FROM (SELECT unnest(%(names)s::text[]) AS name UNION SELECT relname::text FROM pg_catalog.pg_class"
    " WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind IN ('r', 'p')"
    " AND obj_description(oid, 'pg_class') = %(comment)s) AS found ORDER BY 1"
)
_DROP_FOREIGN = "SELECT projections.drop_shadow_tables(%s::text[])"
_SORTED_BY_DEFAULT = (
    "SELECT c.relname, a.attname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid"
    " WHERE c.relnamespace = to_regnamespace(%s) AND c.relname = ANY(%s)"
    " AND a.attcollation = 'pg_catalog.\"default\"'::pg_catalog.regcollation"
)
_OWN = (
    "SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(%s) AND relname = ANY(%s)"
    " AND pg_get_userbyid(relowner) = current_user"
)


async def create_shadow_schema(conn: AsyncConnection[Any]) -> None:
    """Create the schema if it doesn't exist.

    Raises:
        ProjectionsError: this role may not create it.

    """
    # IF NOT EXISTS would need the privilege even if the schema exists.
    if await fetch_value(conn, "SELECT to_regnamespace(%s)", [SHADOW_SCHEMA]) is not None:
        return
    try:
        await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SHADOW_SCHEMA)))
    except errors.InsufficientPrivilege as error:
        raise ProjectionsError(
            f"this role may not create the schema {SHADOW_SCHEMA}; ask the owner of the schema projections to run"
            " projections grant --worker for this role"
        ) from error


async def create_shadow_tables(
    conn: AsyncConnection[Any],
    tables: Sequence[Table],
    comment: str,
    partition: Sequence[str] = (),
    keys_of: Sequence[Table] = (),
) -> None:
    """Create the tables of one shadow, empty; the comment marks whose they are.

    Args:
        conn: the connection, in a transaction.
        tables: the copies of a projection's tables.
        comment: the shadow's.
        partition: the columns whose hash decides in which slice a row is; empty for plain tables. The slices are added
            later.
        keys_of: the read model's tables whose keys these have, if their names differ.

    """
    await _collate_keys(conn, tables, keys_of or tables)
    statements: list[sql.Composable] = []
    for table in tables:
        name = sql.Identifier(SHADOW_SCHEMA, table.name)
        statements += map(sql.SQL, _fold_table(_partitioned(table, partition) if partition else table))
        statements.append(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(comment)))
    await conn.execute(sql.SQL("; ").join(statements), prepare=False)


async def drop_shadow_tables(conn: AsyncConnection[Any], tables: Iterable[Table], comment: str) -> None:
    """Drop the tables of one shadow, and all others with its comment: another version may have had other tables."""
    await _drop_tables(conn, [table.name for table in tables], comment)


async def drop_tables_of_shadows(conn: AsyncConnection[Any], names: Collection[str]) -> None:
    """Drop tables of shadows by their names, those of other roles too."""
    if names:
        await _drop_tables(conn, list(names), None)


async def _drop_tables(conn: AsyncConnection[Any], names: list[str], comment: str | None) -> None:
    found = await fetch_all(conn, _TO_DROP, {"schema": SHADOW_SCHEMA, "names": names, "comment": comment})
    if any(is_foreign for _, is_foreign in found):
        await conn.execute(_DROP_FOREIGN, [[name for name, _ in found]])
    dropped = [sql.Identifier(SHADOW_SCHEMA, name) for name, _ in found]
    await conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(dropped)))


async def table_exists(conn: AsyncConnection[Any], table: sql.Identifier) -> bool:
    """Return whether there is such a table."""
    return await fetch_value(conn, "SELECT to_regclass(%s)", [table.as_string(conn)]) is not None


async def tables_are_ours(conn: AsyncConnection[Any], tables: Iterable[Table]) -> bool:
    """Return whether the tables of a shadow exist and this role created them.

    Another role's tables may have triggers, which would run with this role's privileges.
    """
    names = [table.name for table in tables]
    return bool(await fetch_value(conn, _OWN, [SHADOW_SCHEMA, names]) == len(names))


async def create_fold_table(conn: AsyncConnection[Any], table: Table) -> None:
    """Create a table with what a fold needs: its primary key and unique indexes, no others, and no foreign keys.

    Its keys sort as those of the read model do, or by bytes if there is none: then a comparison of both needs no sort.
    """
    await _collate_keys(conn, [table], [table])
    for statement in _fold_table(table):
        await conn.execute(statement)


def _fold_table(table: Table) -> list[LiteralString]:
    create = CreateTable(table, include_foreign_key_constraints=[])
    return [compile_ddl(create), *(compile_ddl(CreateIndex(index)) for index in table.indexes if index.unique)]


def _partitioned(table: Table, partition: Sequence[str]) -> Table:
    """Return a copy that is divided by the hash of some columns; its partitions are unlogged, as it can't be itself."""
    copy = plain_copy(table, MetaData(), SHADOW_SCHEMA, logged=True)
    columns = sql.SQL(", ").join(map(sql.Identifier, partition)).as_string()
    copy.dialect_kwargs["postgresql_partition_by"] = f"HASH ({columns})"
    return copy


async def _collate_keys(conn: AsyncConnection[Any], tables: Sequence[Table], keys_of: Sequence[Table]) -> None:
    """Let keys sort as those of the read model's tables do; Citus also requires that to keep equal keys together."""
    names = [table.name for table in keys_of]
    default = {
        (table, column) for table, column in await fetch_all(conn, _SORTED_BY_DEFAULT, [READ_MODEL_SCHEMA, names])
    }
    for table, name in zip(tables, names, strict=True):
        for column in table.primary_key.columns:
            is_default = (name, column.name) in default
            if isinstance(column.type, String) and column.type.collation is None and not is_default:
                column.type = column.type.copy()
                column.type.collation = "C"


async def finish_table(conn: AsyncConnection[Any], table: Table) -> None:
    """Give a table that is kept what :func:`create_fold_table` left out: its other indexes, and its comments."""
    for index in table.indexes:
        if not index.unique:
            await conn.execute(compile_ddl(CreateIndex(index)))
    # A table without a comment of its own loses the shadow's.
    await conn.execute(compile_ddl(DropTableComment(table) if table.comment is None else SetTableComment(table)))
    for column in table.c:
        if column.comment is not None:
            await conn.execute(compile_ddl(SetColumnComment(column)))
