"""``projections pause``: pauses a projection."""

from __future__ import annotations

from projections.cli.shared.checkpoint_session import change_checkpoint
from projections.cli.shared.common_options import ProjectionArgument
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.output import print_message
from projections.cli.shared.typer_app import new_app
from projections.running import control

app = new_app()


@app.command()
@handles_errors
def pause(name: ProjectionArgument) -> None:
    """Pause a projection, in whatever process it runs."""
    change_checkpoint(name, lambda conn: control.pause(conn, name))
    print_message(f"{name} is paused; to continue: projections resume {name}")
