"""``projections export``: writes the stored events to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventstore.errors import ArchiveError, UsageError
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.transfer.archive import check_output_path
from eventstore.transfer.export import Exported
from eventstore.transfer.export import export_events as write_archive
from eventstore.waits import Waits, load_waits
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import FAILED, counted, print_data, print_message
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.typer_app import new_app

app = new_app(no_args_is_help=True)


@app.callback()
def export() -> None:
    """Write the stored events to a file."""


@app.command("events")
@handles_errors
def export_events(
    file: Annotated[Path, typer.Argument(help="The file to create; only its owner may read it.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write all events, cursors and quarantined messages to a file.

    An import of the file restores the store byte for byte. Exit code 1 when positions are missing in the log; the file
    then has all others.
    """
    try:
        check_output_path(file)
    except ArchiveError as error:
        raise UsageError(str(error)) from error
    if file.exists() and not force:
        raise UsageError(f"{file} already exists; choose another name or use --force")
    waits = load_waits()
    url = migrated_database(waits, writes=False)
    done = run_interruptible(_export(url, file, waits, replace=force), if_interrupted="the unfinished file was removed")
    print_data(
        f"{file}: {counted(done.events, 'event')} up to position {done.head:,},"
        f" {counted(done.quarantined, 'quarantined message')}"
    )
    for first, last in done.missing:
        print_message(f"projections: positions {first:,}..{last:,} are missing in this log, and so in the file")
    if done.missing:
        raise typer.Exit(FAILED)


async def _export(url: str, file: Path, waits: Waits, *, replace: bool) -> Exported:
    async with await connect(url, name=session_name("export"), waits=waits) as conn:
        return await write_archive(conn, file, progress_lines("export"), replace=replace)
