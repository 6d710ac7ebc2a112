"""Copies of a projection's tables, for a rebuild, a verification or a test to fold into.

A copy is a plain table: how the original stores its rows (partitions, tablespace, access method, storage parameters)
does not matter for the rows. Tables in which it would matter are refused by :mod:`projections.table_rules`.
"""

from __future__ import annotations

from sqlalchemy import MetaData, Table

from projections.projection import READ_MODEL_SCHEMA

_STORAGE = (
    "postgresql_partition_by",
    "postgresql_tablespace",
    "postgresql_using",
    "postgresql_with",
)


def plain_copy(table: Table, metadata: MetaData, schema: str = READ_MODEL_SCHEMA, *, logged: bool = True) -> Table:
    """Return a copy of a table that is stored as a plain table.

    Args:
        table: the original.
        metadata: what the copy belongs to.
        schema: the copy's schema.
        logged: whether the copy survives a crash of the server.

    """
    copy = table.to_metadata(metadata, schema=schema)
    if not logged:
        copy._prefixes = ["UNLOGGED"]  # noqa: SLF001 - a new table takes prefixes, a copy doesn't
    for name in [name for name in copy.dialect_kwargs if name in _STORAGE]:
        del copy.dialect_kwargs[name]
    for index in copy.indexes:
        # No transaction can make one CONCURRENTLY, and nobody else uses a copy.
        for name in [name for name in index.dialect_kwargs if name == "postgresql_concurrently"]:
            del index.dialect_kwargs[name]
    return copy
