"""``projections import``: stores the events of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventstore.errors import UsageError
from eventstore.ingest.context import IngestContext
from eventstore.transfer.importing import import_events as read_archive
from eventstore.waits import load_waits
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import counted, print_data
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.typer_app import new_app

app = new_app(no_args_is_help=True)

IF_INTERRUPTED = "the events stored so far stay; run the import again before starting projections run or ingest"


@app.callback()
def import_() -> None:
    """Store the events of a file."""


@app.command("events")
@handles_errors
def import_events(
    file: Annotated[Path, typer.Argument(help="A file written by projections export events.")],
) -> None:
    """Store the events of an exported file at their positions.

    Use it on an empty store, to continue one, or to fill missing positions. The file must come from the same log.
    Events that are already stored are left out, so an interrupted import can be run again. Refused while one of the
    file's apps is followed, or any app if the file goes beyond the end of the log.
    """
    if str(file) == "-":
        raise UsageError("- is not a file, and an archive can't be read from standard input: give a path")
    waits = load_waits()
    work = read_archive(IngestContext(migrated_database(waits), waits), file, on_progress=progress_lines("import"))
    done = run_interruptible(work, if_interrupted=IF_INTERRUPTED)
    print_data(f"{file}: {counted(done.events, 'event')}, {done.stored:,} of them new")
