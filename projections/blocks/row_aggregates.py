"""What a group of rows has in a column: their count, a sum, the smallest or greatest value, a value of the latest row.

A statement first selects, for each row, the parts that its aggregates need; then it aggregates these parts. In between
it may add rows that are in no group, which have NULL in every part, or give rows a weight: a row with the weight -1
takes back one that is otherwise the same. Names with ``__`` are ours, so that they collide with no column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Integer, Select, case, false, func, literal_column, select
from sqlalchemy.dialects.postgresql import distinct_on

from projections.blocks.block_columns import Aggregate, AggregateColumn, Condition, FactColumn
from projections.blocks.block_values import replace_columns
from projections.blocks.row_block import Rows
from projections.blocks.row_checks import value_of
from projections.blocks.row_columns import Folded

COUNTED = "weight__"
"""The part that is 1 in each row that counts, and NULL in others; with weights, the weight."""
_ZERO = literal_column("0", Integer)


class GroupValues:
    """The columns of a table that are aggregated from another block's rows.

    Args:
        columns: the columns.
        source: the block whose rows are counted.
        weighted: whether :data:`COUNTED` is a weight.

    Attributes:
        parts: what is selected of each row, as expressions of the source's table, by name.

    """

    def __init__(self, columns: Sequence[Folded], source: Rows, *, weighted: bool = False) -> None:
        self._columns = columns
        self._weighted = weighted
        self.parts: dict[str, ColumnElement[Any]] = {}
        parts = {column.name: _part_of(column) for column in columns}
        self._names = {name: add_part(self.parts, part, "part__") for name, part in parts.items() if part is not None}
        # Not a set: its order would differ between processes, and so would the statement's text.
        self._facts = list(dict.fromkeys(column.fact for column in columns if isinstance(column, FactColumn)))
        self._guard = add_part(self.parts, source.c[str(source.deciding_column)], "part__") if self._facts else None

    def parts_from(self, rows: FromClause, source: Rows) -> list[ColumnElement[Any]]:
        """Return the parts of something with the columns of the source's table."""
        return [replace_columns(part, source.table, rows).label(name) for name, part in self.parts.items()]

    def members(self, rows: FromClause) -> Any:  # noqa: ANN401 - SQLAlchemy's types of aggregates name their values
        """Return how many rows a group has, as an aggregate over selected rows."""
        return func.sum(rows.c[COUNTED]) if self._weighted else func.count(rows.c[COUNTED])

    def select_groups(
        self, keys: Sequence[str], rows: FromClause, more: Mapping[str, Any] | None = None
    ) -> Select[Any]:
        """Select each group with the values of its columns.

        Args:
            keys: the names of the group's columns.
            rows: the selected rows: the keys, the parts and :data:`COUNTED`.
            more: other aggregates over them, by name.

        """
        of_key = [rows.c[name] for name in keys]
        if not self._facts:
            values = {
                column.name: self._aggregate(column, rows, lambda aggregate: aggregate) for column in self._columns
            }
            values |= more or {}
            return select(*of_key, *(value.label(name) for name, value in values.items())).group_by(*of_key)
        leads = min(self._facts, key=lambda fact: not fact.is_latest)
        # All over the order of DISTINCT ON, so that one sort serves all.
        of_group = self._window(of_key, rows, is_latest=leads.is_latest)
        values = {}
        for column in self._columns:
            if isinstance(column, FactColumn):
                value = rows.c[self._names[column.name]]
                of_fact = self._window(of_key, rows, is_latest=column.fact.is_latest)
                values[column.name] = value if column.fact is leads else func.first_value(value).over(**of_fact)
            else:
                values[column.name] = self._aggregate(column, rows, lambda aggregate: aggregate.over(**of_group))
        values |= {name: value.over(**of_group) for name, value in (more or {}).items()}
        found = select(*of_key, *(value.label(name) for name, value in values.items()))
        return found.ext(distinct_on(*of_key)).order_by(*of_key, of_group["order_by"])

    def _window(self, of_key: Sequence[ColumnElement[Any]], rows: FromClause, *, is_latest: bool) -> dict[str, Any]:
        """Return the window over a group, in the order in which the deciding row comes first."""
        guard: ColumnElement[Any] = rows.c[str(self._guard)].collate("C")
        if self._weighted:
            guard = case((rows.c[COUNTED] > _ZERO, guard))  # rows that don't count come last
        order = (guard.desc() if is_latest else guard.asc()).nulls_last()
        return {"partition_by": of_key, "order_by": order, "rows": (None, None)}

    def _aggregate(self, column: Folded, rows: FromClause, over: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as above
        part = rows.c[self._names[column.name]] if column.name in self._names else None
        counts = rows.c[COUNTED] > _ZERO if self._weighted else None
        if isinstance(column, FactColumn):
            raise TypeError("a value of one row is no aggregate")
        if column.aggregate is Aggregate.COUNT:
            return self._count(part, rows, over)
        if column.aggregate is Aggregate.TOTAL:
            return func.coalesce(over(func.sum(part * rows.c[COUNTED] if self._weighted else part)), _ZERO)
        result = over(aggregate_values(column, part, counts))
        return func.coalesce(result, false()) if column.aggregate is Aggregate.EVER else result

    def _count(self, condition: ColumnElement[Any] | None, rows: FromClause, over: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as above
        if condition is None:
            return over(self.members(rows))
        if not self._weighted:
            return over(func.count().filter(condition))
        return func.coalesce(over(func.sum(rows.c[COUNTED]).filter(condition)), _ZERO)


def add_part(parts: dict[str, ColumnElement[Any]], part: ColumnElement[Any], prefix: str) -> str:
    """Add an expression to those that are selected, unless it is among them; return its name."""
    for name, known in parts.items():
        if known.compare(part):
            return name
    name = f"{prefix}{len(parts) + 1}"
    parts[name] = part
    return name


def aggregate_values(column: AggregateColumn, value: Any, where: Condition | None) -> Any:  # noqa: ANN401 - as above
    """Return the aggregate of a column's value, over the events or rows that satisfy a condition."""
    functions: Mapping[Aggregate, Any] = {
        Aggregate.LEAST: func.min,
        Aggregate.GREATEST: func.max,
        Aggregate.EVER: func.bool_or,
    }
    result = functions[column.aggregate](value)
    return result if where is None else result.filter(where)


def _part_of(column: Folded) -> ColumnElement[Any] | None:
    if isinstance(column, AggregateColumn):
        if column.aggregate is Aggregate.COUNT:
            return column.where
        if column.where is not None:
            return case((column.where, value_of(column)))
    return value_of(column)
