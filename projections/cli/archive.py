"""``projections archive``: takes old partitions of the event table out of the database, into files."""

from __future__ import annotations

import getpass
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from eventstore.archiving.archive_folder import load_archive_folder
from eventstore.errors import UsageError
from projections.archiving.archive_partitions import archive_partitions, split_destination
from projections.archiving.archive_request import ArchivedRange, ArchiveRequest, ArchiveResult
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.confirm import confirm
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_left_out, print_message
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.typer_app import new_app

app = new_app()

IF_INTERRUPTED = "each partition is in the log or in a complete file; run the same command again for the rest"


class ArchivedRangeShape(TypedDict):
    """A partition that was archived.

    Attributes:
        first: its first position.
        last: its last position.
        events: how many events it has.
        file: the file.
        parquet_file: the Parquet file; null without one.
        bytes: the size of both; 0 in a dry run.

    """

    first: int
    last: int
    events: int
    file: str
    parquet_file: str | None
    bytes: int


class RewrittenFile(TypedDict):
    """A file that was written anew.

    Attributes:
        file: its name before.
        events: how many of its events were erased.

    """

    file: str
    events: int


class ArchivedPartitions(TypedDict):
    """What was archived.

    Attributes:
        dry_run: whether nothing was changed, and this is what would be archived.
        before: only partitions that lie wholly before this position; null without --before.
        archived: the partitions, in order of position.
        held_back: who still needs the events of the next partition; empty if every partition that lies before is
            archived.
        rewritten: earlier files that had events of persons who were erased since, and were written anew.

    """

    dry_run: bool
    before: int | None
    archived: list[ArchivedRangeShape]
    held_back: list[str]
    rewritten: list[RewrittenFile]


@app.command()
@handles_errors
@writes_json(ArchivedPartitions)
def archive(
    *,
    before: Annotated[
        str | None,
        typer.Option(metavar="POSITION|TIME|EVENT_ID", help="Archive the partitions whose events all lie before this."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Where to write: a folder, or a file for one partition. Default: PROJECTIONS_ARCHIVE.",
        ),
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write a Parquet file beside each file, for DuckDB and Spark.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be archived, but change nothing.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take old partitions of the event table out of the database, into files.

    Each file is read back from its disk and compared with the stored events, byte for byte, before its partition is
    dropped. Rebuilds, verifications and as-ofs then read it from the folder that PROJECTIONS_ARCHIVE names; without it
    they refuse. Interrupted at any point, the same command goes on.

    Without --before nothing is archived: files with events of persons who were erased since are written anew, which is
    always the first step.

    Exit code 1 when a projection or a consumer still needs events that should be archived; those stay in the log.
    """
    folder = load_archive_folder()
    destination = to or folder
    if destination is None:
        raise UsageError("say where the files go: --to FILE or FOLDER, or set PROJECTIONS_ARCHIVE")
    directory, file_name = split_destination(destination)
    targets = replay_targets([])
    print_left_out(targets.left_out)
    if not dry_run:
        what = f"partitions before {before}" if before is not None else "files that have erased persons"
        done = "dropped from the database" if before is not None else "replaced"
        confirm([f"{what} will be written to {directory} and {done}"], yes=yes)
    directory = directory.resolve()
    request = ArchiveRequest(before, directory, file_name, parquet, folder or directory, _system_user())
    with shown_progress("archive") as progress:
        work = archive_partitions(targets.context(progress), targets.projections, request, dry_run=dry_run)
        result = run_interruptible(work, if_interrupted=NOTHING_CHANGED if dry_run else IF_INTERRUPTED)
    if as_json:
        print_json(_describe_result(result, dry_run=dry_run))
    else:
        _print_result(result, dry_run=dry_run)
    if result.archived and not dry_run and (folder is None or folder.resolve() != request.folder):
        print_message(f"set PROJECTIONS_ARCHIVE={request.folder}: rebuilds and verifications read the files there")
    if result.held_back or targets.broken:
        raise typer.Exit(FAILED)


def _print_result(result: ArchiveResult, *, dry_run: bool) -> None:
    for name, events in result.rewritten.items():
        print_data(f"{name}: {counted(events, 'event')} of erased persons; the file was written anew")
    for one in result.archived:
        where = f"{one.file}" if one.parquet_file is None else f"{one.file} and {one.parquet_file.name}"
        done = "would be archived in" if dry_run else f"archived in {one.size:,} bytes,"
        print_data(f"positions {one.first:,} to {one.last:,}: {counted(one.events, 'event')} {done} {where}")
    if result.before is not None and not result.archived and not result.held_back:
        print_message(f"no partition lies wholly before position {result.before:,}; nothing was archived")
    for sentence in result.held_back:
        print_message(f"projections: the next partition stays in the log: {sentence}")


def _describe_result(result: ArchiveResult, *, dry_run: bool) -> ArchivedPartitions:
    return {
        "dry_run": dry_run,
        "before": result.before,
        "archived": [_describe_range(one) for one in result.archived],
        "held_back": list(result.held_back),
        "rewritten": [{"file": name, "events": events} for name, events in result.rewritten.items()],
    }


def _describe_range(one: ArchivedRange) -> ArchivedRangeShape:
    return {
        "first": one.first,
        "last": one.last,
        "events": one.events,
        "file": str(one.file),
        "parquet_file": None if one.parquet_file is None else str(one.parquet_file),
        "bytes": one.size,
    }


def _system_user() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown user"
