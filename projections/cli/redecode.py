"""``projections redecode``: decodes the stored events again, after an update of the decoder."""

from __future__ import annotations

from typing import Annotated

import typer

from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, counted, print_data, print_left_out, print_message
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.typer_app import new_app
from projections.rebuilding.redecode_and_mark import redecode_and_mark
from projections.rebuilding.replay_progress import NoProgress

app = new_app()


@app.command()
@handles_errors
def redecode(
    *,
    start: Annotated[
        int,
        typer.Option("--from", min=1, max=2**63 - 1, metavar="POSITION", help="The first position to decode again."),
    ] = 1,
) -> None:
    """Decode the stored events again, after an update of the decoder.

    Exit code 1 when some events can no longer be decoded (their columns stay as they are), or when a projection can't
    be loaded. A projection that isn't migrated must be rebuilt if it has folded events.
    """
    targets = replay_targets([])
    print_left_out(targets.left_out)
    work = redecode_and_mark(
        targets.context(NoProgress()),
        list(targets.projections.values()),
        after=start - 1,
        on_progress=progress_lines("redecode"),
    )
    done, names = run_interruptible(work, if_interrupted="the events decoded so far stay; run it again for the rest")
    print_data(f"{counted(done.read, 'event')} read, {done.changed:,} of them changed")
    if names:
        print_message(f"these projections need a rebuild now: projections rebuild {' '.join(names)}")
    if done.refused:
        positions = ", ".join(f"{position:,}" for position in done.undecodable[:10])
        refused = counted(done.refused, "event")
        print_message(f"projections: {refused} can no longer be decoded (columns unchanged): positions {positions}")
    if done.refused or targets.broken:
        raise typer.Exit(FAILED)
