"""``projections skip``: lets a projection skip an event that it can't fold."""

from __future__ import annotations

from typing import Annotated

import typer

from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.checkpoint_session import run_with_connection
from projections.cli.shared.common_options import EventIdOption, ProjectionArgument
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.output import print_message
from projections.cli.shared.typer_app import new_app
from projections.registry import select_projections
from projections.running import control

app = new_app()


@app.command()
@handles_errors
def skip(
    name: ProjectionArgument,
    *,
    event_id: EventIdOption,
    why: Annotated[str, typer.Option(callback=storable_text, help="The reason; it is recorded.")],
) -> None:
    """Let a projection skip an event that it can't fold.

    The projection's error names the event. The skip is recorded, and rebuilds honour it too, until the projection's
    version changes.
    """
    version = select_projections([name])[name].version
    position = run_with_connection(lambda conn: control.skip(conn, name, event_id, why, version))
    print_message(f"{name} skips event {event_id} (position {position:,})")
