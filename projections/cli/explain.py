"""``projections explain``: by which events a row of a read model came about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from projections.cli.shared.argument_checks import text, texts
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_once
from projections.cli.shared.output import FAILED, counted, echo, echo_json, say, say_left_out, says_errors
from projections.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from projections.inspecting.explain import Explanation, RowChange


@says_errors
def explain(
    read_model: Annotated[str, typer.Argument(help="The table name.")],
    key: Annotated[list[str], typer.Argument(callback=texts, help="The row's primary key, in order, without the app.")],
    *,
    app: Annotated[str | None, typer.Option(callback=text, help="The app, when several have such a row.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which events produced a row, and which one decides it.

    For example: projections explain consent_registry 12300000003. Put a key that begins with a minus after --.

    Exit code 1 when no event produces such a row, or when the table's row differs from the log.
    """
    from projections.cli.shared.open_database import replay_targets  # noqa: PLC0415
    from projections.cli.shared.progress import showing  # noqa: PLC0415
    from projections.inspecting.explain import explain as explain_row  # noqa: PLC0415 - loaded when it runs
    from projections.inspecting.row_key import find_table  # noqa: PLC0415
    from projections.registry import find_projections  # noqa: PLC0415

    registry = find_projections()
    try:
        projection, table = find_table(registry.projections, read_model)
    except UsageError:
        say_left_out(registry.broken)  # the table may be theirs
        raise
    targets = replay_targets([projection.name])
    with showing(read_model, only_long=True) as progress:
        work = explain_row(targets.context(progress), projection, table, key, app)
        found = run_once(work, holds=NOTHING_CHANGED)
    if as_json:
        echo_json(_as_dict(found), default=_plain)
    else:
        _tell(found)
    if not found.equal or not found.changes:
        raise typer.Exit(FAILED)


def _tell(found: Explanation) -> None:
    named = ", ".join(f"{name}={value}" for name, value in found.key.items())
    echo(f"{found.table} ({named}), by the log up to position {found.position:,}")
    for change in found.changes:
        _tell_change(change, found.key, decides=change.event.event_id == found.decided_by)
    if not found.changes:
        say(f"projections: no event up to position {found.position:,} produces such a row")
    if found.without_effect:
        echo(f"{counted(found.without_effect, 'more event')} of this {_partition(found)} changed nothing in the row")
    for event_id in found.skipped:
        echo(f"event {event_id} is skipped")
    if found.row is not None and found.decided_by is None:
        echo("no event has decided it yet" if found.is_decided_by_one else "no single event decides such a row")
    if not found.equal:
        say("projections: the table's row differs; projections verify shows it, projections rebuild repairs it")


def _tell_change(change: RowChange, key: Mapping[str, Any], *, decides: bool) -> None:
    from projections.cli.shared.cell_text import shown  # noqa: PLC0415 - loaded when it runs

    event = change.event
    mark = "  ← decides" if decides else ""
    echo(f"{event.event_id}  {shown(event.occurred_at)}  {event.type_name}  (position {event.position:,}){mark}")
    if change.after is None:
        echo("    the row is removed")
        return
    for name, (old, new) in change.columns.items():
        if change.before is None:
            if name not in key:
                echo(f"    {name}: {shown(new)}")
        else:
            echo(f"    {name}: {shown(old)} → {shown(new)}")


def _partition(found: Explanation) -> str:
    return "request" if "send_request_id" in found.key else "person" if "ppnum" in found.key else "group"


def _as_dict(found: Explanation) -> dict[str, Any]:
    return {
        "table": found.table,
        "key": found.key,
        "position": found.position,
        "decided_by": found.decided_by,
        "events": [
            {
                "event_id": change.event.event_id,
                "event_type": change.event.type_name,
                "position": change.event.position,
                "occurred_at": change.event.occurred_at,
                "changes": {name: {"old": old, "new": new} for name, (old, new) in change.columns.items()},
                "row": change.after,
            }
            for change in found.changes
        ],
        "silent": found.without_effect,
        "skipped": found.skipped,
        "row": found.row,
        "table_row": found.table_row,
    }


def _plain(value: object) -> str:
    from projections.cli.shared.cell_text import shown  # noqa: PLC0415 - loaded when it runs

    return shown(value)
