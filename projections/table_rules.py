"""The rules that a projection's tables and columns must satisfy.

A rebuild folds into copies of the tables and compares both, so it must be able to make the same rows in a copy as in
the table. How rows are stored (partitions, tablespace, access method, storage parameters) is up to the table: a copy
is always a plain table. We refuse features that affect which rows exist, their values, or whether they survive a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    Computed,
    DefaultClause,
    Enum,
    FetchedValue,
    ForeignKeyConstraint,
    Identity,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import NamedType

from projections.errors import InvalidProjection
from projections.folding.decided_rows import DELETED, EVENT_ID, which_wins
from projections.folding.python_projection import PythonProjection
from projections.folding.sql_text import DIALECT
from projections.projection import READ_MODEL_SCHEMA, SHADOW_POSITIONS, Projection
from projections.read_models.common_columns import VIEWS

# Parts of a constant default: string literals, and casts to a type, which may have a length.
_CONSTANTS = re.compile(
    r"'(?:[^']|'')*'|::\s*\w+(?: \w+)*(?:\s*\([\d, ]*\))?|\bCAST\b\s*\(|\bAS \w+\s*\([\d, ]*\)", re.IGNORECASE
)
_CALL = re.compile(r"\w\s*\(|\b(?:current|local|session)_?(?:date|time|timestamp|user|role)\b|\buser\b", re.IGNORECASE)
_MAX_NAME = 63
_NO_ACTION = (None, "NO ACTION")


def check_table(projection: Projection, table: Table) -> None:
    """Check one table of a projection against the rules.

    Raises:
        InvalidProjection: it breaks one; the message says what to change.

    """
    of_table = f"projection {projection.name!r}: table {table.name}"
    for why in _broken_rules(projection, table):
        raise InvalidProjection(f"{of_table} {why}")


def _broken_rules(projection: Projection, table: Table) -> Iterator[str]:
    yield from _broken_by_name(projection, table)
    yield from _broken_by_kind(projection, table)
    yield from _broken_by_foreign_keys(projection, table)
    for column in table.c:
        yield from _broken_by_column(column)
    missing = [column for column in projection.partition_by if column not in table.primary_key.columns]
    if missing:
        yield f"must have {', '.join(missing)} of partition_by in its primary key"
    if isinstance(projection, PythonProjection):
        yield from _broken_by_python_columns(table)


def _broken_by_name(projection: Projection, table: Table) -> Iterator[str]:
    if table.schema != READ_MODEL_SCHEMA:
        yield f"must be in schema {READ_MODEL_SCHEMA}"
    if sum(one.name == table.name for one in projection.tables) > 1:
        yield "has the name of another of its tables; rename one"
    if table.name in VIEWS:
        yield "has the name of a built-in view; choose another name"
    for name in (table.name, *(column.name for column in table.c)):
        if not 0 < len(name.encode()) <= _MAX_NAME:
            yield f"has the name {name!r}; a name of a table or column has 1 to {_MAX_NAME} bytes, Postgres cuts others"
    if table.name == SHADOW_POSITIONS:
        yield "has a name that rebuilds use; choose another name"


def _broken_by_kind(projection: Projection, table: Table) -> Iterator[str]:
    prefixes = " ".join(str(prefix) for prefix in getattr(table, "_prefixes", ()))
    if prefixes:
        yield f"is {prefixes}, so its rows can be lost while its checkpoint stays; make it a plain table"
    options = table.dialect_kwargs
    if options.get("postgresql_on_commit"):
        yield "has postgresql_on_commit, which only temporary tables have; make it a plain table"
    if options.get("postgresql_inherits"):
        yield "inherits from another table, which would also show its rows; make it a plain table"
    if options.get("postgresql_partition_by") and projection.migrations is None:
        yield "is partitioned, and migrate creates no partitions; bring an Alembic folder that creates them"


def _broken_by_foreign_keys(projection: Projection, table: Table) -> Iterator[str]:
    owned = {one.fullname for one in projection.tables}
    for key in (one for one in table.constraints if isinstance(one, ForeignKeyConstraint)):
        target = key.elements[0].target_fullname.rpartition(".")[0]
        if target not in owned:
            yield f"refers to {target}, which is not a table of this projection; rows may depend only on events"
        if key.ondelete not in _NO_ACTION or key.onupdate not in _NO_ACTION:
            yield (
                f"has a foreign key to {target} with ON DELETE or ON UPDATE actions, which could change rows that a"
                " rebuild never compares; remove ondelete and onupdate"
            )
        if not key.deferrable:
            yield (
                f"has a foreign key to {target} that Postgres checks after each statement, which the statements of a"
                " rebuild can't satisfy; make it deferrable=True"
            )


def _broken_by_column(column: Column[object]) -> Iterator[str]:
    for default in (column.server_default, column.server_onupdate):
        if default is not None and not isinstance(default, DefaultClause | Computed | Identity):
            yield (
                f"has column {column.name}, whose values come from a trigger; a rebuild's table has no trigger; let the"
                " fold set them, or make it a computed column"
            )
    if column.default is not None or column.onupdate is not None:
        yield f"has column {column.name}, whose default must be a server_default"
    if column.identity is not None or not _is_constant(column.server_default):
        yield f"has column {column.name}, whose default must be a constant, so that a rebuild makes the same rows"
    kind = column.type.item_type if isinstance(column.type, ARRAY) else column.type
    if isinstance(kind, NamedType) or (isinstance(kind, Enum) and kind.native_enum):
        yield (
            f"has column {column.name}, which uses a native enum or a domain; shadow tables can't use such a type; make"
            " it Text, or an Enum with native_enum=False"
        )


def _is_constant(default: FetchedValue | None) -> bool:
    """Return whether a server default is the same for every row and at any time, as far as its text shows."""
    if not isinstance(default, DefaultClause):  # no default, or computed by Postgres from the row's other columns
        return True
    if isinstance(default.arg, str):
        return True
    text = str(default.arg.compile(dialect=DIALECT))
    return not _CALL.search(_CONSTANTS.sub("", text))


def _broken_by_python_columns(table: Table) -> Iterator[str]:
    """Check the columns that the engine writes for a projection that folds in Python."""
    which_wins(table)
    event_id, deleted = table.c.get(EVENT_ID), table.c.get(DELETED)
    if event_id is None or not isinstance(event_id.type, Text) or event_id.type.collation != "C":
        yield 'needs a column event_id of type Text(collation="C")'
    elif deleted is not None and not isinstance(deleted.type, Boolean):
        yield "must have its column deleted of type Boolean"
    elif any(one.nullable or one.primary_key for one in (event_id, deleted) if one is not None):
        yield "must have event_id and deleted NOT NULL and outside its primary key"
    if deleted is None:  # then it takes no tombstones
        return
    for column in table.c:
        required = not column.nullable and column.server_default is None
        if required and not column.primary_key and column not in (event_id, deleted):
            yield (
                f"has column {column.name}, which must be nullable or have a server_default: a tombstone has no value"
                " for it"
            )
