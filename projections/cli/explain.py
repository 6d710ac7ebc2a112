"""``projections explain``: shows which events produced a row of a read model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypedDict

import typer

from eventstore.errors import UsageError
from projections.cli.shared.argument_checks import storable_text, storable_texts
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.completed_values import complete_app, complete_read_model
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_left_out, print_message
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.typer_app import new_app
from projections.cli.shared.value_text import format_value
from projections.inspecting.explain import Explanation
from projections.inspecting.explain import explain as explain_row
from projections.inspecting.row_folding import RowChange
from projections.inspecting.row_key import find_table
from projections.registry import find_projections

app = new_app()


class ColumnChange(TypedDict):
    """What an event changed in a column.

    Attributes:
        old: the value before; null also if there was no row.
        new: the value after.

    """

    old: Any
    new: Any


class ExplainedEvent(TypedDict):
    """An event that changed the row, or the last of several that were folded together.

    Attributes:
        event_id: the event.
        event_type: the name of its type.
        position: its position.
        occurred_at: when it happened.
        together: how many events were folded together; 1 for this event alone.
        changes: the columns that it changed, or that they changed.
        row: the row after it, by column; null if it removed the row.

    """

    event_id: str
    event_type: str
    position: int
    occurred_at: datetime
    together: int
    changes: dict[str, ColumnChange]
    row: Mapping[str, Any] | None


class ExplainedRow(TypedDict):
    """The history of a row.

    Attributes:
        table: the table.
        key: the row's primary key, by column.
        partition: the columns in which the events behind the row agree; with `counted`, the rows that it counts.
        counted: the table whose rows it counts, if these can move from one row to another; else null.
        position: the projection's checkpoint; later events are not folded yet.
        decided_by: the event_id of the event that decides the row; null if none does, or none has yet.
        has_deciding_event: whether a single event decides a row of this table.
        events: the events that changed the row, by event_id.
        silent: how many other events of the partition did not change the row.
        skipped: the event_ids of skipped events.
        equal: whether the table's row equals the log.
        row: the row by the log, by column; null if there should be none.
        table_row: the row in the table; null if there is none.
        archived_up_to: events up to this position are archived and were not searched; `row` lacks what they changed. 0
            if none are.

    """

    table: str
    key: Mapping[str, Any]
    partition: list[str]
    counted: str | None
    position: int
    decided_by: str | None
    has_deciding_event: bool
    events: list[ExplainedEvent]
    silent: int
    skipped: list[str]
    equal: bool
    row: Mapping[str, Any] | None
    table_row: Mapping[str, Any] | None
    archived_up_to: int


@app.command()
@handles_errors
@writes_json(ExplainedRow)
def explain(
    read_model: Annotated[str, typer.Argument(help="The table name.", autocompletion=complete_read_model)],
    key: Annotated[
        list[str], typer.Argument(callback=storable_texts, help="The row's primary key, in order, without the app.")
    ],
    *,
    app: Annotated[
        str | None,
        typer.Option(
            callback=storable_text, autocompletion=complete_app, help="The app, when several have such a row."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which events produced a row, and which one decides it.

    For example: projections explain consent_registry 12300000003. Put a key that begins with a minus after --. If
    more than a thousand events are behind the row, the first changes, the last events and the one that decides are
    shown; the events between them are folded together. A row with more than 100,000 events behind it isn't explained.

    Events that projections archive took out of the log are not searched, and this is said.

    Exit code 1 when no event produces such a row, or when the table's row differs from the log.
    """
    registry = find_projections()
    try:
        projection, table = find_table(registry.projections, read_model)
    except UsageError:
        print_left_out(registry.broken)  # the table may be theirs
        raise
    targets = replay_targets([projection.name])
    with shown_progress(read_model, only_long=True) as progress:
        work = explain_row(targets.context(progress), projection, table, key, app)
        found = run_interruptible(work, if_interrupted=NOTHING_CHANGED)
    if as_json:
        print_json(_describe(found))
    else:
        _print_explanation(found)
    if not found.archived_up_to and (not found.equal or not found.changes):
        raise typer.Exit(FAILED)


def _print_explanation(found: Explanation) -> None:
    key = ", ".join(f"{name}={value}" for name, value in found.key.items())
    print_data(f"{found.table} ({key}), according to the log up to position {found.position:,}")
    for change in found.changes:
        _print_change(change, found.key, decides=change.event.event_id == found.decided_by)
    if not found.changes:
        print_message(f"projections: no event up to position {found.position:,} produces such a row")
    if found.without_effect:
        print_data(f"{counted(found.without_effect, 'other event')} {found.group} did not change the row")
    for event_id in found.skipped:
        print_data(f"event {event_id} is skipped")
    if found.row is not None and found.decided_by is None:
        undecided = "no event has decided it yet"
        print_data(undecided if found.is_decided_by_one else "rows of this table have no single deciding event")
    if found.archived_up_to:
        print_message(
            f"positions 1 to {found.archived_up_to:,} are archived and were not searched: what they changed is missing"
            " here; projections verify reads them"
        )
    elif not found.equal:
        print_message("projections: the row in the table differs; projections verify shows how, rebuild repairs it")


def _print_change(change: RowChange, key: Mapping[str, Any], *, decides: bool) -> None:
    event = change.event
    mark = "  ← decides" if decides else ""
    moment = format_value(event.occurred_at)
    where = f"(position {event.position:,})"
    if change.together > 1:
        where += f", the last of {change.together:,} events that were folded together"
    print_data(f"{event.event_id}  {moment}  {event.type_name}  {where}{mark}")
    if change.after is None:
        print_data("    the row is removed")
        return
    for name, (old, new) in change.columns.items():
        if change.before is None:
            if name not in key:
                print_data(f"    {name}: {format_value(new)}")
        else:
            print_data(f"    {name}: {format_value(old)} → {format_value(new)}")


def _describe(found: Explanation) -> ExplainedRow:
    return {
        "table": found.table,
        "key": found.key,
        "partition": [*found.partition],
        "counted": found.counted,
        "position": found.position,
        "decided_by": found.decided_by,
        "has_deciding_event": found.is_decided_by_one,
        "events": [
            {
                "event_id": change.event.event_id,
                "event_type": change.event.type_name,
                "position": change.event.position,
                "occurred_at": change.event.occurred_at,
                "together": change.together,
                "changes": {name: {"old": old, "new": new} for name, (old, new) in change.columns.items()},
                "row": change.after,
            }
            for change in found.changes
        ],
        "silent": found.without_effect,
        "skipped": [*found.skipped],
        "equal": found.equal,
        "row": found.row,
        "table_row": found.table_row,
        "archived_up_to": found.archived_up_to,
    }
