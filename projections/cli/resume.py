"""``projections resume``: resumes a paused or failed projection."""

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
def resume(name: ProjectionArgument) -> None:
    """Resume a paused or failed projection immediately."""
    change_checkpoint(name, lambda conn: control.resume(conn, name))
    print_message(f"{name} is resumed")
