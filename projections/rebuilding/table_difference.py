"""The statements that compare one table with its shadow, and make it equal to the shadow.

Rows are compared by their bytes, column by column. Computed columns are left out, since they follow from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Executable,
    FromClause,
    MetaData,
    Table,
    and_,
    cast,
    collate,
    delete,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
    types,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import insert

from projections.projection import Window
from projections.rebuilding.row_changes import Sample
from projections.rebuilding.table_ranges import TEXTS, WHOLE, KeyRange

_EQUAL_BY_BYTES = TEXTS | {
    *(types.Boolean, types.BOOLEAN, types.LargeBinary, postgresql.BYTEA, types.Uuid, types.UUID),
    *(types.SmallInteger, types.SMALLINT, types.Integer, types.INTEGER, types.BigInteger, types.BIGINT),
    *(types.Date, types.DATE, types.DateTime, types.TIMESTAMP, postgresql.TIMESTAMP),
}
"""The types whose values are equal only if their bytes are, texts under the collation "C". Types derived from them need
not be like them."""

MERGES_WITHOUT_SHARED = 160000
"""From this version on, Postgres merges a full join only without the columns that have one value in the whole range.
Before it, it merges only with them."""

_ONE: ColumnElement[int] = literal_column("1")
"""As a text: a statement without parameters takes one message instead of five."""


class _Record(types.UserDefinedType[Any]):
    """Postgres's type of any row, which compares byte by byte."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "record"


class TableDifference:
    """The statements that compare one table with its shadow, and make it equal.

    Args:
        keys: the name of the table of its keys.
        live: the read model's table.
        copy: its shadow.
        keys_schema: the schema of the table of its keys.

    Attributes:
        before: rows of the live table when it was compared.
        size: bytes of both tables then.
        key_columns: the primary key's columns.
        columns: all columns but the computed ones.
        keys: the table of the keys of rows that may differ.
        sorts_alike: whether the keys of both have the same collations; the caller may set it to False.
        lies_in_key_order: whether rows whose keys follow each other are mostly beside each other on the disk. The rows
            of a request are, since its events come together; those of a person need not be.

    """

    def __init__(self, keys: str, live: Table, copy: Table, *, keys_schema: str = "pg_temp") -> None:
        self.live = live
        self.copy = copy
        self.before = 0
        self.size = 0
        self.sorts_alike = True
        self.key_columns = [column.name for column in live.primary_key.columns]
        self.columns = [column.name for column in live.c if column.computed is None]
        self.lies_in_key_order = next((name for name in self.key_columns if name != "app"), "") == "send_request_id"
        self._values = [name for name in self.columns if name not in self.key_columns]
        key = [Column(column.name, column.type, primary_key=True) for column in live.primary_key.columns]
        # The schema is named: without it, DROP TABLE would find a user's table in public while ours doesn't exist.
        self.keys = Table(keys, MetaData(schema=keys_schema), *key)

    def insert_differing_keys(self, part: KeyRange = WHOLE, server_version: int = MERGES_WITHOUT_SHARED) -> Executable:
        """Compare all rows whose keys are in a range, and insert the keys of those that differ.

        The parameters are the range's values.

        Args:
            part: the range.
            server_version: the version of the server, as libpq has it: 180004.

        """
        first = self.key_columns[0]
        old, new = self._rows(self.live, part, "old"), self._rows(self.copy, part, "new")
        keys = [func.coalesce(old.c[name], new.c[name]) for name in self.key_columns]
        leaves_out = part.shared if self.sorts_alike and server_version >= MERGES_WITHOUT_SHARED else 0
        there = old.join(new, self._same_key(old, new, leaves_out), full=True)
        differ = or_(old.c[first].is_(None), new.c[first].is_(None), self._differ(old, new))
        rows = select(*keys).select_from(there).where(differ)
        # If the table and its shadow sort differently, ranges overlap, and a key may be in two of them.
        return insert(self.keys).from_select(self.key_columns, rows).on_conflict_do_nothing()

    def insert_touched_keys(self, table: Table, window: Window, partition: Sequence[str]) -> Executable:
        """Insert the keys of the rows, in one of both tables, of all partitions that a window's events name."""
        rows = select(*(table.c[name] for name in self.key_columns)).where(window.touched(table, partition))
        return insert(self.keys).from_select(self.key_columns, rows).on_conflict_do_nothing()

    def count(self) -> Executable:
        """Count the rows to add, remove and change."""
        first = self.key_columns[0]
        old, new = self.live.c[first], self.copy.c[first]
        return select(
            func.count().filter(old.is_(None), new.is_not(None)).label("added"),
            func.count().filter(old.is_not(None), new.is_(None)).label("removed"),
            func.count().filter(old.is_not(None), new.is_not(None), self._differ()).label("changed"),
        ).select_from(self._both_by_key())

    def select_samples(self, limit: int) -> Executable:
        """Select the first rows that differ."""
        first = self.key_columns[0]
        old, new = self.live.c[first], self.copy.c[first]
        # Labels are numbers: Postgres would cut off long names, and the same beginnings would collide.
        columns = [self.live.c[name].label(f"old_{number}") for number, name in enumerate(self.columns)]
        columns += [self.copy.c[name].label(f"new_{number}") for number, name in enumerate(self.columns)]
        differ = or_(
            old.is_(None) & new.is_not(None),
            old.is_not(None) & new.is_(None),
            and_(old.is_not(None), new.is_not(None), self._differ()),
        )
        keys = [self.keys.c[name] for name in self.key_columns]
        return select(*columns).select_from(self._both_by_key()).where(differ).order_by(*keys).limit(limit)

    def sample(self, row: Mapping[str, Any]) -> Sample:
        """Return the sample of a row of :meth:`select_samples`."""
        old = {name: row[f"old_{number}"] for number, name in enumerate(self.columns)}
        new = {name: row[f"new_{number}"] for number, name in enumerate(self.columns)}
        first = self.key_columns[0]
        if old[first] is None:
            return Sample(self.live.name, {name: new[name] for name in self.key_columns}, None, new)
        key = {name: old[name] for name in self.key_columns}
        if new[first] is None:
            return Sample(self.live.name, key, old, None)
        differing = [name for name in self._values if repr(old[name]) != repr(new[name])] or self._values
        return Sample(
            self.live.name, key, {name: old[name] for name in differing}, {name: new[name] for name in differing}
        )

    def delete_extra(self) -> Executable:
        """Delete the rows that are missing in the shadow."""
        there = exists(_ONE).where(self._same_key(self.copy, self.keys)).correlate(self.keys)
        return delete(self.live).where(self._same_key(self.live, self.keys), ~there)

    def delete_colliding(self, unique: Sequence[Sequence[str] | None]) -> Executable:
        """Delete the rows whose new values collide with another row's; :meth:`insert_missing` inserts them again.

        Args:
            unique: the columns of each unique index; None for an index that columns alone don't describe. If there
                is one, all rows that differ are deleted.

        """
        other = self.live.alias("other")
        collisions = [
            exists(_ONE)
            .where(and_(*(other.c[name] == self.copy.c[name] for name in columns)), ~self._same_key(other, self.live))
            .correlate(self.copy, self.live)
            for columns in unique
            if columns is not None and all(name in self.live.c for name in columns)
        ]
        collides = or_(*collisions) if len(collisions) == len(unique) else true()
        there = exists(_ONE).where(self._same_key(self.copy, self.keys), self._differ(), collides)
        return delete(self.live).where(self._same_key(self.live, self.keys), there.correlate(self.keys, self.live))

    def update_changed(self) -> Executable:
        """Update the rows that differ from the shadow."""
        return (
            update(self.live)
            .values({name: self.copy.c[name] for name in self._values or self.key_columns})
            .where(self._same_key(self.live, self.keys), self._same_key(self.copy, self.keys), self._differ())
        )

    def insert_missing(self) -> Executable:
        """Insert the rows that only the shadow has."""
        there = exists(_ONE).where(self._same_key(self.live, self.keys)).correlate(self.keys)
        rows = select(*(self.copy.c[name] for name in self.columns)).where(self._same_key(self.copy, self.keys), ~there)
        return insert(self.live).from_select(self.columns, rows)

    def _both_by_key(self) -> FromClause:
        return self.keys.outerjoin(self.live, self._same_key(self.live, self.keys)).outerjoin(
            self.copy, self._same_key(self.copy, self.keys)
        )

    def _rows(self, table: Table, part: KeyRange, name: str) -> FromClause:
        """Return the rows whose keys are in a range: below a full join, where no condition can be moved to."""
        if part.is_whole:
            return table
        is_in_part = part.contains(table, by_bytes=not self.sorts_alike)
        return select(*(table.c[column] for column in self.columns)).where(is_in_part).subquery(name)

    def _same_key(self, one: FromClause, other: FromClause, leaves_out: int = 0) -> ColumnElement[bool]:
        return and_(*(one.c[name] == other.c[name] for name in self.key_columns[leaves_out:]))

    def _differ(self, old: FromClause | None = None, new: FromClause | None = None) -> ColumnElement[bool]:
        old, new = self.live if old is None else old, self.copy if new is None else new
        rest = [name for name in self._values if type(self.live.c[name].type) not in _EQUAL_BY_BYTES]
        # Comparing columns one by one takes half as long as putting them into rows.
        differ = [self._is_distinct(name, old, new) for name in self._values if name not in rest]
        if rest:
            rows = (cast(func.row(*(rows.c[name] for name in rest)), _Record()) for rows in (old, new))
            # What the operator *<> does; as an operator, Citus would write it for other servers with columns, not rows.
            differ.append(func.record_image_ne(*rows, type_=Boolean))
        return or_(false(), *differ)

    def _is_distinct(self, name: str, old: FromClause, new: FromClause) -> ColumnElement[bool]:
        if type(self.live.c[name].type) in TEXTS:
            return collate(old.c[name], "C").is_distinct_from(collate(new.c[name], "C"))
        return old.c[name].is_distinct_from(new.c[name])
