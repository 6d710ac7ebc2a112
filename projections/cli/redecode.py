"""``projections redecode``: decodes the stored events again, after an update of the decoder."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_left_out, print_message
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.typer_app import new_app
from projections.rebuilding.redecode_and_mark import redecode_and_mark
from projections.rebuilding.replay_progress import NoProgress

app = new_app()


class RedecodedLog(TypedDict):
    """What redecode did.

    Attributes:
        read: how many events were read.
        changed: how many of them have other columns now.
        need_rebuild: the projections that need a rebuild, from this redecode or an earlier one.
        undecodable: how many payloads can no longer be decoded; their columns stay as they are.
        undecodable_positions: the first hundred of their positions.

    """

    read: int
    changed: int
    need_rebuild: list[str]
    undecodable: int
    undecodable_positions: list[int]


@app.command()
@handles_errors
@writes_json(RedecodedLog)
def redecode(
    *,
    start: Annotated[
        int,
        typer.Option("--from", min=1, max=2**63 - 1, metavar="POSITION", help="The first position to decode again."),
    ] = 1,
    as_json: JsonOption = False,
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
    if as_json:
        document: RedecodedLog = {
            "read": done.read,
            "changed": done.changed,
            "need_rebuild": names,
            "undecodable": done.refused,
            "undecodable_positions": done.undecodable,
        }
        print_json(document)
    else:
        print_data(f"{counted(done.read, 'event')} read, {done.changed:,} of them changed")
    if names and not as_json:
        print_message(f"these projections need a rebuild now: projections rebuild {' '.join(names)}")
    if done.archived_up_to and not as_json:
        print_message(
            f"positions 1 to {done.archived_up_to:,} are archived: they are decoded when they are read, so rebuild what"
            " an update of the decoder concerns"
        )
    if done.refused:
        positions = ", ".join(f"{position:,}" for position in done.undecodable[:10])
        refused = counted(done.refused, "event")
        print_message(f"projections: {refused} can no longer be decoded (columns unchanged): positions {positions}")
    if done.refused or targets.broken:
        raise typer.Exit(FAILED)
