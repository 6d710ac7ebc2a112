"""``projections export``: writes the stored events, or the erased persons, to a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from eventstore.errors import ArchiveError, UsageError
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.transfer.export import Exported, ExportedErasures
from eventstore.transfer.export import export_erasures as write_erasures
from eventstore.transfer.export import export_events as write_archive
from eventstore.transfer.new_file import check_output_path
from eventstore.waits import Waits, load_waits
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_message
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.typer_app import new_app
from projections.inspecting.erasure_ledger import refuse_to_replace

app = new_app(no_args_is_help=True)


class MissingRange(TypedDict):
    """Positions that are missing in the log.

    Attributes:
        first: the first of them.
        last: the last of them.

    """

    first: int
    last: int


class ExportedLog(TypedDict):
    """What was exported.

    Attributes:
        file: the path of the file.
        events: how many events it has.
        head: the last position in it.
        quarantined: how many quarantined messages it has.
        missing: the positions that are missing in the log, and so in the file.
        erasures: how many erased persons it has.

    """

    file: str
    events: int
    head: int
    quarantined: int
    missing: list[MissingRange]
    erasures: int


class ExportedLedger(TypedDict):
    """What a ledger of erased persons has.

    Attributes:
        file: the path of the file.
        erasures: how many erased persons.
        events: how many events of theirs.

    """

    file: str
    erasures: int
    events: int


@app.callback()
def export() -> None:
    """Write the stored events, or the erased persons, to a file."""


@app.command("events")
@handles_errors
@writes_json(ExportedLog)
def export_events(
    file: Annotated[Path, typer.Argument(help="The file to create; only its owner may read it.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write all events, cursors and quarantined messages to a file.

    An import of the file restores the store byte for byte. Exit code 1 when positions are missing in the log; the file
    then has all others.
    """
    _check_new_file(file, force=force)
    waits = load_waits()
    url = migrated_database(waits, writes=False)
    done = run_interruptible(_export(url, file, waits, replace=force), if_interrupted="the unfinished file was removed")
    if as_json:
        print_json(_describe(file, done))
    else:
        print_data(
            f"{file}: {counted(done.events, 'event')} up to position {done.head:,},"
            f" {counted(done.quarantined, 'quarantined message')}"
        )
    for first, last in done.missing:
        print_message(f"projections: positions {first:,}..{last:,} are missing in this log, and so in the file")
    if done.missing:
        raise typer.Exit(FAILED)


def _describe(file: Path, done: Exported) -> ExportedLog:
    return {
        "file": str(file),
        "events": done.events,
        "head": done.head,
        "quarantined": done.quarantined,
        "missing": [{"first": first, "last": last} for first, last in done.missing],
        "erasures": done.erasures,
    }


@app.command("erasures")
@handles_errors
@writes_json(ExportedLedger)
def export_ledger(
    file: Annotated[Path, typer.Argument(help="The file to create; only its owner may read it.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a ledger of erased persons to a file.

    It has their tokens and the ids of their events, and no numbers. Keep it where the backups are, and newer than
    they are: after a restore, projections erase --again FILE erases the same persons again. A ledger with persons
    who are not erased in this database is never replaced.
    """
    _check_new_file(file, force=force)
    waits = load_waits()
    url = migrated_database(waits, writes=False)
    done = run_interruptible(
        _export_ledger(url, file, waits, replace=force), if_interrupted="the unfinished file was removed"
    )
    if as_json:
        document: ExportedLedger = {"file": str(file), "erasures": done.erasures, "events": done.events}
        print_json(document)
    else:
        persons = counted(done.erasures, "erased person", "erased persons")
        print_data(f"{file}: {persons}, {counted(done.events, 'event')}")


async def _export_ledger(url: str, file: Path, waits: Waits, *, replace: bool) -> ExportedErasures:
    async with await connect(url, name=session_name("export"), waits=waits) as conn:
        # A restored log must not replace the only record of persons who came back; of a damaged file nothing is lost.
        with suppress(ArchiveError):
            await refuse_to_replace(conn, file)
        return await write_erasures(conn, file, replace=replace)


def _check_new_file(file: Path, *, force: bool) -> None:
    try:
        check_output_path(file)
    except ArchiveError as error:
        raise UsageError(str(error)) from error
    if file.exists() and not force:
        raise UsageError(f"{file} already exists; choose another name or use --force")


async def _export(url: str, file: Path, waits: Waits, *, replace: bool) -> Exported:
    async with await connect(url, name=session_name("export"), waits=waits) as conn:
        return await write_archive(conn, file, progress_lines("export"), replace=replace)
