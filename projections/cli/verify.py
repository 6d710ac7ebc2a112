"""``projections verify``: checks that read models equal the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import typer

from projections.cli.shared.common_options import JobsOption, JsonOption, ProjectionsArgument
from projections.cli.shared.difference_json import TableDifferences, VerifiedRow, table_differences, verified_row
from projections.cli.shared.difference_output import print_changes, print_samples
from projections.cli.shared.each_projection import continue_after_error
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, counted, print_data, print_json_line, print_left_out, print_message
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.typer_app import new_app
from projections.inspecting.row_events import EventsBehind, list_events_behind
from projections.rebuilding.rebuild import REMOVABLE
from projections.rebuilding.verify import Verified
from projections.rebuilding.verify import verify as verify_one

app = new_app()


class VerifiedProjection(TypedDict):
    """The comparison of a projection with the log.

    Attributes:
        name: the projection.
        position: its checkpoint, up to which the log was folded.
        equal: whether its rows equal the log.
        rows: how many rows its tables have.
        rows_differing: how many rows differ.
        tables: how each table differs.
        samples: the first rows that differ.
        repair: the command that repairs the rows; null if they equal the log.

    """

    name: str
    position: int
    equal: bool
    rows: int
    rows_differing: int
    tables: list[TableDifferences]
    samples: list[VerifiedRow]
    repair: str | None


@app.command()
@handles_errors
@writes_json(VerifiedProjection, streams=True)
def verify(names: ProjectionsArgument = None, *, jobs: JobsOption = None, as_json: JsonOption = False) -> None:
    """Check that read models equal the log.

    Each projection is replayed up to its checkpoint and compared; without names, all of them. Nothing is changed.

    Exit code 1 when rows differ: the first ones are shown, with the events behind them. To repair them, run projections
    rebuild NAME.
    """
    targets = replay_targets(names or [], jobs)
    print_left_out(targets.left_out)
    failed = list(targets.left_out)
    for name, projection in targets.projections.items():
        with continue_after_error(name, failed):
            with shown_progress(name) as progress:
                work = verify_one(targets.context(progress), projection)
                found = run_interruptible(work, if_interrupted=NOTHING_CHANGED)
            events: list[EventsBehind] = []
            if not found.equal:
                failed.append(name)
                if not as_json:
                    _print_differences(found)
                with shown_progress(name, only_long=True) as progress:
                    search = list_events_behind(targets.context(progress), projection, found.samples, found.position)
                    events = run_interruptible(search, if_interrupted=NOTHING_CHANGED)
            if as_json:
                print_json_line(_describe(found, events))
            elif found.equal:
                rows = counted(sum(one.before for one in found.changes), "row equals", "rows equal")
                print_data(f"{name}: {rows} the log at position {found.position:,}")
            else:
                print_samples(found.samples, [one.kind for one in found.samples], [one.lines for one in events])
                if events and (archived := events[0].archived_up_to):
                    print_message(
                        f"positions 1 to {archived:,} are archived and were not searched for events behind rows"
                    )
                print_message(f"to repair it: {_repair(found)}")
    if failed:
        raise typer.Exit(FAILED)


def _print_differences(found: Verified) -> None:
    differing = counted(sum(one.total for one in found.changes), "row differs", "rows differ")
    print_data(f"{found.name}: {differing} from the log at position {found.position:,}")
    print_changes(found.changes, "missing", "extra", "changed")


def _repair(found: Verified) -> str:
    removes_many = any(one.removed > REMOVABLE * one.before for one in found.changes)
    return f"projections rebuild {found.name}{' --yes' if removes_many else ''}"


def _describe(found: Verified, events: Sequence[EventsBehind]) -> VerifiedProjection:
    return {
        "name": found.name,
        "position": found.position,
        "equal": found.equal,
        "rows": sum(one.before for one in found.changes),
        "rows_differing": sum(one.total for one in found.changes),
        "tables": table_differences(found.changes),
        "samples": [verified_row(one, behind) for one, behind in zip(found.samples, events, strict=True)],
        "repair": None if found.equal else _repair(found),
    }
