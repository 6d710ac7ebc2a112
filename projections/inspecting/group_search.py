"""Finds the events behind a row of a block, where the projection's partition says less about them than the block.

Invariants. A row of a block of rows depends on the events that have its key. A row of a tally depends on the rows that
are in its group now, and any event of one of these can have moved it there or away: so the events behind it are all
events of the rows that at least one of their events puts into the group. Where a block doesn't tell, the events of the
partition are behind the row, as for other projections.

Events that have a person or a request in common are found by index. Otherwise the log is searched from its end, once
for a row of rows; for a row of such a tally twice, first for the keys of the rows. A search ends with an error once it
has found more events, or keys, than ``row_events.MOST_EVENTS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from sqlalchemy import (
    Column,
    ColumnElement,
    Table,
    Text,
    cast,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.visitors import replacement_traverse

from eventstore.schema import events
from projections.blocks.block_columns import Aggregate, AggregateColumn, FactColumn, KeyColumn
from projections.blocks.block_projection import BlockProjection
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import value_of
from projections.blocks.tally_block import NARROW, Tally
from projections.inspecting import row_events
from projections.inspecting.row_events import RowEvent, TooManyEvents, find_events, of_types, read_events
from projections.projection import Projection
from projections.rebuilding.replay_progress import Progress

_OF_SINGLE_EVENTS = (Aggregate.LEAST, Aggregate.GREATEST)


class Group(NamedTuple):
    """The events behind a row, and what they have in common.

    ``columns`` are those in which the events, or the rows of ``counted``, agree; ``counted`` is the table whose rows
    the row counts, if these can move; else None.
    """

    events: list[RowEvent]
    columns: tuple[str, ...]
    counted: str | None = None


async def find_group(
    conn: AsyncConnection[Any],
    projection: Projection,
    table: Table,
    key: Mapping[str, Any],
    up_to: int,
    progress: Progress,
) -> Group:
    """Return the events behind a row, up to a position.

    Args:
        conn: a connection in autocommit.
        projection: the one that owns the table.
        table: the row's table.
        key: the row's whole key.
        up_to: the last position that counts.
        progress: receives the position.

    Raises:
        TooManyEvents: see there.
        psycopg.Error: the database failed, or the connection.

    """
    block = _find_block(projection, table)
    if isinstance(block, Rows):
        condition = [value_of(column) == _literal(key, block.table, column.name) for column in block.keys]
        found = await row_events.search(
            conn, of_types(projection.handles).where(*condition), _values(block, key), up_to, progress
        )
        return Group(found, tuple(column.name for column in block.keys))
    if isinstance(block, Tally):
        found = await _find_of_counted_rows(conn, block, key, up_to, progress)
        return Group(found, tuple(column.name for column in block.keys), block.of.table.name)
    partition = {name: key[name] for name in projection.partition_by}
    return Group(await find_events(conn, projection, partition, up_to, progress), tuple(partition))


def _find_block(projection: Projection, table: Table) -> Rows | Tally | None:
    """Return the block of a table, if it tells more about the events behind a row than the partition does."""
    if not isinstance(projection, BlockProjection) or NARROW.intersection(projection.partition_by):
        return None
    if projection.has_own_statements():
        return None
    block = next((one for one in projection.blocks if one.table is table), None)
    if isinstance(block, Tally) and any(_in_events(block, column) is None for column in block.keys):
        return None
    return block


async def _find_of_counted_rows(
    conn: AsyncConnection[Any], block: Tally, key: Mapping[str, Any], up_to: int, progress: Progress
) -> list[RowEvent]:
    names = [column.name for column in block.of.keys]
    row_key = [cast(value_of(column), Text) for column in block.of.keys]
    of_block = events.c.event_type.in_(sorted(block.of.handles))
    groups = {column.name: _in_events(block, column) for column in block.keys}
    in_group = [one == _literal(key, block.table, name) for name, one in groups.items() if one is not None]
    labelled: list[ColumnElement[Any]] = [one.label(name) for name, one in zip(names, row_key, strict=True)]
    keys = select(*labelled).where(of_block, *in_group).distinct()
    found: set[tuple[Any, ...]] = set()
    values = {one.name: key[name] for name, one in groups.items() if isinstance(one, Column)}
    async for rows in read_events(conn, keys, values, up_to, progress):
        found.update(tuple(row[name] for name in names) for row in rows)
        if len(found) > row_events.MOST_EVENTS:
            raise TooManyEvents([])
    if not found:
        return []
    arrays = [literal(list(values), ARRAY(Text)) for values in zip(*found, strict=True)]
    chosen = func.unnest(*arrays).table_valued(*names, name="chosen").render_derived()
    fields = [events.c[name] for name in RowEvent._fields]
    of_rows = tuple_(*row_key).in_(select(*(chosen.c[name] for name in names)))
    progress.phase("searching again", target=up_to)
    # Columns in which all of these rows agree, such as a person whose requests are counted.
    common = {
        value.name: next(iter(values))
        for value, values in zip(map(value_of, block.of.keys), map(set, zip(*found, strict=True)), strict=True)
        if isinstance(value, Column) and len(values) == 1
    }
    return await row_events.search(conn, select(*fields).where(of_block, of_rows), common, up_to, progress)


def _values(block: Rows, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that columns of events have in all events with a key."""
    values = {column.name: value_of(column) for column in block.keys}
    return {value.name: key[name] for name, value in values.items() if isinstance(value, Column)}


def _in_events(block: Tally, column: KeyColumn) -> ColumnElement[Any] | None:
    """Return the group into which an event puts the row that it decides; None if single events don't tell."""
    sources = {one.name: one for one in block.of.columns}
    tells = True

    def replace(element: Any, **_: Any) -> ColumnElement[Any] | None:  # noqa: ANN401 - any part of an expression
        nonlocal tells
        if not isinstance(element, Column) or element.table is not block.of.table:
            return None
        source = sources[element.name]
        of_events = source.value is not None and not block.of.is_counted(source)
        known = isinstance(source, KeyColumn) or (isinstance(source, FactColumn) and source.default is None)
        known = known or (isinstance(source, AggregateColumn) and source.aggregate in _OF_SINGLE_EVENTS)
        tells = tells and of_events and known
        return source.value

    if column.value is None or column.elements is not None:
        return None
    replaced: ColumnElement[Any] = replacement_traverse(column.value, {}, replace)
    return replaced if tells else None


def _literal(key: Mapping[str, Any], table: Table, name: str) -> ColumnElement[Any]:
    return literal(key[name], table.c[name].type)
