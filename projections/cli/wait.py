"""``projections wait``: waits until every projection has folded an event."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import typer
from psycopg import AsyncConnection

from eventstore.errors import UsageError
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.checkpoint_session import run_with_connection
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.errors import ProjectionsError
from projections.migrating.missing_tables import not_migrated
from projections.registry import select_projections
from projections.running.control import find_last_event_id, wait_until_folded

app = new_app()


class FoldedEvent(TypedDict):
    """An event that every projection has folded.

    Attributes:
        event_id: the event.
        position: its position.
        projections: the names of the projections that have folded it.

    """

    event_id: str
    position: int
    projections: list[str]


@app.command()
@handles_errors
@writes_json(FoldedEvent)
def wait(
    *,
    event_id: Annotated[str | None, typer.Option("--event-id", help="The event's ULID.")] = None,
    head: Annotated[bool, typer.Option("--head", help="Wait for the last event that is stored now.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.0, callback=seconds, metavar="SECONDS", help="Give up after this long.")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Wait until every projection has folded an event.

    Exit code 1 when the event is in quarantine, when a projection stopped before it, or after the timeout.
    """
    if (event_id is None) != head:
        raise UsageError("give --event-id ULID, or --head for the last stored event")
    projections = select_projections([])
    versions = {name: projection.version for name, projection in projections.items()}

    async def waited(conn: AsyncConnection[Any]) -> tuple[str, int]:
        for projection in projections.values():
            if (why := await not_migrated(conn, projection)) is not None:
                raise ProjectionsError(f"{projection.name} can't fold: {why}")
        wanted = event_id or await find_last_event_id(conn)
        return wanted, await wait_until_folded(conn, versions, wanted, timeout)

    folded, position = run_with_connection(waited, writes=False, patience=timeout)
    if as_json:
        document: FoldedEvent = {"event_id": folded, "position": position, "projections": [*versions]}
        print_json(document)
    else:
        print_message(f"event {folded} (position {position:,}) is folded by {', '.join(versions)}")
