"""``projections verify``: checks that read models equal the log."""

from __future__ import annotations

import typer

from projections.cli.shared.common_options import ProjectionsArgument
from projections.cli.shared.difference_output import print_changes, print_samples
from projections.cli.shared.each_projection import continue_after_error
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, counted, print_data, print_left_out, print_message
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.typer_app import new_app
from projections.inspecting.row_events import list_events_behind
from projections.rebuilding.rebuild import REMOVABLE
from projections.rebuilding.verify import verify as verify_one

app = new_app()


@app.command()
@handles_errors
def verify(names: ProjectionsArgument = None) -> None:
    """Check that read models equal the log.

    Each projection is replayed up to its checkpoint and compared; without names, all of them. Nothing is changed.

    Exit code 1 when rows differ: the first ones are shown, with the events behind them. To repair them, run projections
    rebuild NAME.
    """
    targets = replay_targets(names or [])
    print_left_out(targets.left_out)
    failed = list(targets.left_out)
    for name, projection in targets.projections.items():
        with continue_after_error(name, failed):
            with shown_progress(name) as progress:
                work = verify_one(targets.context(progress), projection)
                found = run_interruptible(work, if_interrupted=NOTHING_CHANGED)
            rows = sum(one.before for one in found.changes)
            if found.equal:
                equal = counted(rows, "row equals", "rows equal")
                print_data(f"{name}: {equal} the log at position {found.position:,}")
                continue
            failed.append(name)
            differing = counted(sum(one.total for one in found.changes), "row differs", "rows differ")
            print_data(f"{name}: {differing} from the log at position {found.position:,}")
            print_changes(found.changes, "missing", "extra", "changed")
            with shown_progress(name, only_long=True) as progress:
                search = list_events_behind(targets.context(progress), projection, found.samples, found.position)
                events = run_interruptible(search, if_interrupted=NOTHING_CHANGED)
            print_samples(found.samples, [one.kind for one in found.samples], events)
            yes = any(one.removed > REMOVABLE * one.before for one in found.changes)
            print_message(f"to repair it: projections rebuild {name}{' --yes' if yes else ''}")
    if failed:
        raise typer.Exit(FAILED)
