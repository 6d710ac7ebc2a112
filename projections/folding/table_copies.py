"""Which tables a projection may have, and copies of them for a replay.

A replay folds into copies and compares them with the tables, so it must be able to make the same rows in a copy as in
the table. What decides how rows are stored (partitions, tablespace, access method, storage parameters) is the table's
alone: a copy is a plain table. What decides which rows there are, or whether they last, is refused at registration.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Computed, DefaultClause, ForeignKeyConstraint, Identity, MetaData, Table

from projections.errors import InvalidProjection
from projections.projection import READ_MODEL_SCHEMA, Projection

_STORAGE = (
    "postgresql_partition_by",
    "postgresql_tablespace",
    "postgresql_using",
    "postgresql_with",
)
_ACTIONS = (None, "NO ACTION")


def plain_copy(table: Table, metadata: MetaData, schema: str = READ_MODEL_SCHEMA) -> Table:
    """Return a copy of a table, in another schema if one is given, that is stored as a plain table."""
    copy = table.to_metadata(metadata, schema=schema)
    for name in [name for name in copy.dialect_kwargs if name in _STORAGE]:
        del copy.dialect_kwargs[name]
    for index in copy.indexes:
        # No transaction can make one CONCURRENTLY, and nobody else uses a copy.
        for name in [name for name in index.dialect_kwargs if name == "postgresql_concurrently"]:
            del index.dialect_kwargs[name]
    return copy


def check_table(projection: Projection, table: Table) -> None:
    """Refuse a table whose rows a replay couldn't make.

    Raises:
        InvalidProjection: the message says what to change.

    """
    of_table = f"projection {projection.name!r}: table {table.name}"
    for why in (*_of_kind(projection, table), *_of_columns(table), *_of_foreign_keys(projection, table)):
        raise InvalidProjection(f"{of_table} {why}")


def _of_kind(projection: Projection, table: Table) -> Iterable[str]:
    prefixes = " ".join(str(prefix) for prefix in getattr(table, "_prefixes", ()))
    if prefixes:
        yield (
            f"is {prefixes}, so its rows don't last as long as the checkpoint that says that they are there: make it a"
            " plain table"
        )
    options = table.dialect_kwargs
    if options.get("postgresql_on_commit"):
        yield "has postgresql_on_commit, which only temporary tables have: make it a plain table"
    if options.get("postgresql_inherits"):
        yield "inherits from another table, which would show its rows and those of a rebuild too: make it a plain table"
    if options.get("postgresql_partition_by") and projection.migrations is None:
        yield "is partitioned, and migrate makes no partitions: bring an Alembic folder that makes them"


def _of_columns(table: Table) -> Iterable[str]:
    for column in table.c:
        for default in (column.server_default, column.server_onupdate):
            if default is not None and not isinstance(default, DefaultClause | Computed | Identity):
                yield (
                    f"has column {column.name}, whose values a trigger makes; a rebuild's table has no trigger: let the"
                    " fold make them, or a computed column"
                )


def _of_foreign_keys(projection: Projection, table: Table) -> Iterable[str]:
    owned = {one.fullname for one in projection.tables}
    for key in (one for one in table.constraints if isinstance(one, ForeignKeyConstraint)):
        target = key.elements[0].target_fullname.rpartition(".")[0]
        if target not in owned:
            yield f"refers to {target}, which isn't its own: its rows must depend on events alone"
        if key.ondelete not in _ACTIONS or key.onupdate not in _ACTIONS:
            yield (
                f"has a foreign key to {target} with an action, by which a rebuild would lose rows that it doesn't"
                " compare: leave ondelete and onupdate out"
            )
        if not key.deferrable:
            yield (
                f"has a foreign key to {target} that is checked at once, which a rebuild's order of statements can't"
                " keep to: make it deferrable=True"
            )
