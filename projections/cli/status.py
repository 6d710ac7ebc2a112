"""``projections status``: shows upstreams, projections, who runs them, and quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer

from eventstore.erasure.erasure_key import load_erasure_settings
from eventstore.errors import UsageError
from eventstore.ingest.config import configured_names
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.checkpoint_session import run_with_connection
from projections.cli.shared.common_options import ConfigOption, JsonOption
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import FAILED, LogLevel, counted, print_data, print_json, print_message
from projections.cli.shared.status_tables import (
    app_lines,
    apps_table,
    clock_behind_sentence,
    consumer_lines,
    consumers_table,
    folding_process_lines,
    projection_lines,
    projections_table,
)
from projections.cli.shared.typer_app import new_app
from projections.errors import MigrationRefused, SchemaNotCurrent
from projections.inspecting.health import find_problems
from projections.inspecting.read_status import read_status
from projections.inspecting.status import MOST_COUNTED, Status, StatusDocument
from projections.registry import find_projections

app = new_app()


@app.command()
@handles_errors
@writes_json(StatusDocument)
def status(
    *,
    as_json: JsonOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with code 1 and say why on stderr, unless all is well.")
    ] = False,
    max_behind: Annotated[
        float | None,
        typer.Option(
            min=0.0, callback=seconds, metavar="SECONDS", help="With --check: how far behind a projection may be."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Show upstreams, projections, who runs them, and quarantine.

    Named consumers are shown too, if there are any.

    With --check the exit code is 1 if a projection is failed, waiting, missing, too far behind or not running anywhere;
    if an app (configured, or followed before) is refused or followed by no process, its stream fails or its quarantine
    is full; if the schema is not current or was changed by hand; or if a restore brought erased persons back. A paused
    projection is fine unless it is too far behind. So that a monitor may run it often, --check leaves out the counts
    over the log, unless --json asks for them.
    """
    if max_behind is not None and not check:
        raise UsageError("--max-behind needs --check")
    configured = configured_names(config) if check else ()
    registry, ledger = find_projections(), load_erasure_settings().ledger_file
    with _schema_problems_found() if check else nullcontext():
        found = run_with_connection(
            lambda conn: read_status(conn, registry, counted=as_json or not check, ledger=ledger), writes=False
        )
    if as_json:
        print_json(found.as_dict())
    else:
        _print_status(found)
    sentences = find_problems(found, configured, max_behind) if check else []
    for sentence in sentences:
        print_message(f"projections: {sentence}", level=LogLevel.ERROR)
    if sentences:
        raise typer.Exit(FAILED)


@contextmanager
def _schema_problems_found() -> Iterator[None]:
    """With --check, a schema that is not current is a problem (exit code 1); wrong settings stay usage errors."""
    try:
        yield
    except (SchemaNotCurrent, MigrationRefused) as error:
        print_message(f"projections: {error}", level=LogLevel.ERROR)
        raise typer.Exit(FAILED) from None


def _print_status(found: Status) -> None:
    tables = new_console()
    if found.apps:
        tables.print(apps_table(found))
        for line in app_lines(found):
            print_data(line)
    for sentence in found.schema:
        print_data(f"the schema is damaged: {sentence}")
    if found.ledger is not None:
        print_data(found.ledger)
    if found.archived_up_to:
        print_data(f"positions 1 to {found.archived_up_to:,} are archived, in files of projections archive")
    tables.print(projections_table(found))
    for line in [*folding_process_lines(found), *projection_lines(found)]:
        print_data(line)
    if found.consumers:
        tables.print(consumers_table(found.consumers))
        for line in consumer_lines(found.consumers):
            print_data(line)
    _print_counts(found)


def _print_counts(found: Status) -> None:
    if found.without_request:
        subject = _counted(found.without_request, "event has", "events have")
        print_data(f"{subject} no send_request_id: tables with a row for each request leave them out.")
    if found.unknown_types:
        subject = _counted(found.unknown_types, "event is of a type", "events are of types")
        print_data(f"{subject} that no read model uses.")
    for sentence in found.remarks:
        print_data(sentence)
    if found.ahead_of_clock is not None:
        print_data(clock_behind_sentence(found.ahead_of_clock))


def _counted(events: int, one: str, many: str) -> str:
    """Return a number of events with what it counts; more of them aren't counted."""
    return f"{events:,} or more {many}" if events >= MOST_COUNTED else counted(events, one, many)
