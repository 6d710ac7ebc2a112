"""``projections import``: stores the events of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

import typer

from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.errors import UsageError
from eventstore.ingest.context import IngestContext
from eventstore.transfer.importing import import_events as read_archive
from eventstore.waits import load_waits
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import counted, print_data, print_json
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.typer_app import new_app

app = new_app(no_args_is_help=True)

IF_INTERRUPTED = "the events stored so far stay; run the import again before starting projections run or ingest"


class ImportedFile(TypedDict):
    """What was imported.

    Attributes:
        file: the path of the file.
        events: how many events it has.
        stored: how many of them are new in the log.

    """

    file: str
    events: int
    stored: int


@app.callback()
def import_() -> None:
    """Store the events of a file."""


@app.command("events")
@handles_errors
@writes_json(ImportedFile)
def import_events(
    file: Annotated[Path, typer.Argument(help="A file written by projections export events.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Store the events of an exported file at their positions.

    Use it on an empty store, to continue one, or to fill missing positions. The file must come from the same log.
    Events that are already stored are left out, so an interrupted import can be run again. Refused while one of the
    file's apps is followed, or any app if the file goes beyond the end of the log.
    """
    if str(file) == "-":
        raise UsageError("- is not a file, and an archive can't be read from standard input: give a path")
    waits, key = load_waits(), load_erasure_key()
    context = IngestContext(migrated_database(waits), waits, key=key)
    work = read_archive(context, file, on_progress=progress_lines("import"))
    done = run_interruptible(work, if_interrupted=IF_INTERRUPTED)
    if as_json:
        document: ImportedFile = {"file": str(file), "events": done.events, "stored": done.stored}
        print_json(document)
    else:
        print_data(f"{file}: {counted(done.events, 'event')}, {done.stored:,} of them new")
