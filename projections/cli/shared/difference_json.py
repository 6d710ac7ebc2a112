"""How ``rebuild`` and ``verify`` write which rows differ as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from projections.inspecting.row_events import EventsBehind
from projections.rebuilding.row_changes import Changes, Sample


class TableChanges(TypedDict):
    """What a rebuild changes in a table.

    Attributes:
        table: the table.
        rows_before: how many rows it had.
        added: how many rows are added.
        removed: how many rows are removed.
        changed: how many rows get other values.

    """

    table: str
    rows_before: int
    added: int
    removed: int
    changed: int


class TableDifferences(TypedDict):
    """How a table differs from the log.

    Attributes:
        table: the table.
        rows: how many rows it has.
        missing: how many rows of the log it doesn't have.
        extra: how many rows it has that the log doesn't give.
        changed: how many rows have other values.

    """

    table: str
    rows: int
    missing: int
    extra: int
    changed: int


class DifferingRow(TypedDict):
    """A row that differs.

    Attributes:
        table: its table.
        key: its primary key, by column.
        kind: whether the table has no such row, or the log has none, or values differ.
        old: the table's values, by column: those that differ, or all; null if it has no such row.
        new: the log's values; null if it gives no such row.

    """

    table: str
    key: Mapping[str, Any]
    kind: Literal["missing", "extra", "changed"]
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None


class EventBehindRow(TypedDict):
    """An event behind a row.

    Attributes:
        event_id: the event.
        event_type: the name of its type.
        position: its position.

    """

    event_id: str
    event_type: str
    position: int


class VerifiedRow(TypedDict):
    """A row that differs, and the events behind it.

    Attributes:
        table: its table.
        key: its primary key, by column.
        kind: whether the table has no such row, or the log has none, or values differ.
        old: the table's values, by column: those that differ, or all; null if it has no such row.
        new: the log's values; null if it gives no such row.
        events: the last events behind the row.
        earlier_events: how many events are behind the row before these.
        archived_up_to: events up to this position are archived and were not searched; 0 if none are.

    """

    table: str
    key: Mapping[str, Any]
    kind: Literal["missing", "extra", "changed"]
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    events: list[EventBehindRow]
    earlier_events: int
    archived_up_to: int


def table_changes(changes: Sequence[Changes]) -> list[TableChanges]:
    """Return what a rebuild changes, for each table."""
    return [
        {
            "table": one.table,
            "rows_before": one.before,
            "added": one.added,
            "removed": one.removed,
            "changed": one.changed,
        }
        for one in changes
    ]


def table_differences(changes: Sequence[Changes]) -> list[TableDifferences]:
    """Return how each table differs: what a rebuild would add is missing."""
    return [
        {"table": one.table, "rows": one.before, "missing": one.added, "extra": one.removed, "changed": one.changed}
        for one in changes
    ]


def differing_row(one: Sample) -> DifferingRow:
    """Return a row that differs."""
    return {
        "table": one.table,
        "key": one.key,
        "kind": one.kind,
        "old": one.old,
        "new": one.new,
    }


def verified_row(one: Sample, behind: EventsBehind) -> VerifiedRow:
    """Return a row that differs, with the events behind it."""
    events: list[EventBehindRow] = [
        {"event_id": each.event_id, "event_type": each.type_name, "position": each.position} for each in behind.last
    ]
    return {
        **differing_row(one),
        "events": events,
        "earlier_events": behind.earlier,
        "archived_up_to": behind.archived_up_to,
    }
