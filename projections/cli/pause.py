"""``projections pause``: pauses a projection."""

from __future__ import annotations

from projections.cli.shared.checkpoint_session import ChangedState, change_checkpoint
from projections.cli.shared.common_options import JsonOption, ProjectionArgument
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.running import control

app = new_app()


@app.command()
@handles_errors
@writes_json(ChangedState)
def pause(name: ProjectionArgument, *, as_json: JsonOption = False) -> None:
    """Pause a projection, in whatever process it runs."""
    change_checkpoint(name, lambda conn: control.pause(conn, name))
    if as_json:
        changed: ChangedState = {"name": name, "state": "paused"}
        print_json(changed)
    else:
        print_message(f"{name} is paused; to continue: projections resume {name}")
