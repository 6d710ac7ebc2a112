"""The JSON of projections rebuild: one document for each projection, or one for read models as of a time."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from projections.cli.shared.difference_json import DifferingRow, TableChanges, differing_row, table_changes
from projections.rebuilding.rebuild import Rebuilt


class RebuildSeconds(TypedDict):
    """How long the parts of a rebuild took, in seconds.

    Attributes:
        fold: folding the log into the shadow.
        compare: comparing the shadow with the tables.
        apply: applying the difference; only then was the checkpoint held.

    """

    fold: float
    compare: float
    apply: float


class RebuiltProjection(TypedDict):
    """A rebuilt projection.

    Attributes:
        name: the projection.
        version: the version of its rows.
        position: its checkpoint after the rebuild.
        dry_run: whether nothing was changed, and this is what a rebuild would do.
        rows_changed: how many rows were added, removed or changed.
        tables: what was changed in each table.
        samples: the first rows that a dry run found; otherwise empty.
        seconds: how long it took.

    """

    name: str
    version: int
    position: int
    dry_run: bool
    rows_changed: int
    tables: list[TableChanges]
    samples: list[DifferingRow]
    seconds: RebuildSeconds


class BuiltTable(TypedDict):
    """A table as of a time.

    Attributes:
        table: the table.
        rows: how many rows it has.

    """

    table: str
    rows: int


class BuiltAsOf(TypedDict):
    """Read models as of a time, with ``--as-of``.

    Attributes:
        schema: the schema in which they are.
        position: the last position that was folded.
        received_at: when the event at that position was received; null if there was none by then.
        tables: the tables.
        remarks: sentences about the time that was asked for.

    """

    schema: str
    position: int
    received_at: datetime | None
    tables: list[BuiltTable]
    remarks: list[str]


def describe_rebuilt(done: Rebuilt) -> RebuiltProjection:
    """Return the document of a rebuilt projection."""
    return {
        "name": done.name,
        "version": done.version,
        "position": done.position,
        "dry_run": done.dry_run,
        "rows_changed": sum(one.total for one in done.changes),
        "tables": table_changes(done.changes),
        "samples": [differing_row(one) for one in done.samples],
        "seconds": {"fold": done.timings.fold, "compare": done.timings.compare, "apply": done.timings.apply},
    }
