"""``projections skip``: lets a projection skip an event that it can't fold."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.checkpoint_session import run_with_connection
from projections.cli.shared.common_options import EventIdOption, JsonOption, ProjectionArgument
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.registry import select_projections
from projections.running import control

app = new_app()


class RecordedSkip(TypedDict):
    """An event that a projection skips from now on.

    Attributes:
        name: the projection.
        event_id: the event.
        position: its position.
        why: the reason that was given.

    """

    name: str
    event_id: str
    position: int
    why: str


@app.command()
@handles_errors
@writes_json(RecordedSkip)
def skip(
    name: ProjectionArgument,
    *,
    event_id: EventIdOption,
    why: Annotated[str, typer.Option(callback=storable_text, help="The reason; it is recorded.")],
    as_json: JsonOption = False,
) -> None:
    """Let a projection skip an event that it can't fold.

    The projection's error names the event. The skip is recorded, and rebuilds honour it too, until the projection's
    version changes.
    """
    version = select_projections([name])[name].version
    position = run_with_connection(lambda conn: control.skip(conn, name, event_id, why, version))
    if as_json:
        recorded: RecordedSkip = {"name": name, "event_id": event_id, "position": position, "why": why.strip()}
        print_json(recorded)
    else:
        print_message(f"{name} skips event {event_id} (position {position:,})")
