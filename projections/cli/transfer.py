"""``projections export``, ``import`` and ``redecode``: the log as a file, and its columns read off anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from eventstore.errors import ArchiveError
from projections.cli.shared.interruptible import run_once
from projections.cli.shared.output import FAILED, counted, echo, say, say_left_out, says_errors
from projections.errors import UsageError

if TYPE_CHECKING:
    from eventstore.transfer.export import Exported
    from eventstore.transfer.importing import Imported

SECONDS = 5.0
AGAIN = "what it stored stays; import the file again before anything is followed"

exporting = typer.Typer(no_args_is_help=True, help="Write the stored events to a file.")
importing = typer.Typer(no_args_is_help=True, help="Store the events of a file.")


@exporting.command("events")
@says_errors
def export_events(
    file: Annotated[Path, typer.Argument(help="The file to create; only its owner may read it.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write all events, cursors and quarantined messages to a file.

    An import of the file restores the store byte for byte. Exit code 1 when positions are missing in the log; the file
    then has all others.
    """
    from eventstore.transfer.archive import check_output_path  # noqa: PLC0415 - loaded when it runs
    from eventstore.waits import load_waits  # noqa: PLC0415
    from projections.cli.shared.open_database import migrated_database  # noqa: PLC0415

    try:
        check_output_path(file)
    except ArchiveError as error:
        raise UsageError(str(error)) from error
    if file.exists() and not force:
        raise UsageError(f"{file} already exists; choose another name or use --force")
    url = migrated_database(load_waits(), writes=False)
    done = run_once(_export(url, file, replace=force), holds="no unfinished file is left")
    echo(f"{file}: {counted(done.events, 'event')} up to position {done.head:,}, {done.quarantined:,} from quarantine")
    for first, last in done.missing:
        say(f"projections: positions {first:,}..{last:,} are missing in this log, and so in the file")
    if done.missing:
        raise typer.Exit(FAILED)


@importing.command("events")
@says_errors
def import_events(file: Annotated[Path, typer.Argument(help="A file written by projections export events.")]) -> None:
    """Store the events of an exported file at their positions.

    Use it on an empty store, to continue one, or to fill missing positions. The file must come from the same log.
    Events that are already stored are left out, so an interrupted import can be run again. Refused while one of the
    file's apps is followed, or any app if the file goes beyond the end of the log.
    """
    from eventstore.transfer.importing import import_events as run  # noqa: PLC0415 - loaded when it runs
    from eventstore.waits import load_waits  # noqa: PLC0415
    from projections.cli.shared.open_database import migrated_database  # noqa: PLC0415

    waits = load_waits()
    work = run(migrated_database(waits), file, waits=waits, on_progress=_every("import"))
    done: Imported = run_once(work, holds=AGAIN)
    echo(f"{counted(done.events, 'event')} in {file}, {done.stored:,} of them missing here before")


@says_errors
def redecode(
    *,
    start: Annotated[
        int,
        typer.Option("--from", min=1, max=2**63 - 1, metavar="POSITION", help="The first position to decode again."),
    ] = 1,
) -> None:
    """Decode the stored events again, after an update of the decoder.

    Exit code 1 when some events can no longer be decoded (their columns stay as they are), or when a projection can't
    be loaded. A projection that isn't migrated must be rebuilt if it has folded events.
    """
    from projections.cli.shared.open_database import replay_targets  # noqa: PLC0415 - loaded when it runs
    from projections.rebuilding.redecode_and_mark import redecode_and_mark  # noqa: PLC0415
    from projections.rebuilding.replay_progress import NoProgress  # noqa: PLC0415

    targets = replay_targets([])
    say_left_out(targets.left_out)
    projections = list(targets.projections.values())
    context = targets.context(NoProgress())
    work = redecode_and_mark(context, projections, after=start - 1, on_progress=_every("redecode"))
    done, names = run_once(work, holds="what it changed stays, and running it again does the rest")
    echo(f"{counted(done.read, 'event')} read, {done.changed:,} of them changed")
    if names:
        say(f"their rows may come out otherwise now: projections rebuild {' '.join(names)}")
    if done.refused:
        positions = ", ".join(f"{position:,}" for position in done.undecodable[:10])
        refused = counted(done.refused, "event")
        say(f"projections: {refused} can't be read any more, the columns stay as they are: positions {positions}")
    if done.refused or targets.broken:
        raise typer.Exit(FAILED)


async def _export(url: str, file: Path, *, replace: bool) -> Exported:
    from eventstore.postgres.connection import connect  # noqa: PLC0415 - loaded when it runs
    from eventstore.postgres.session_lock import session_name  # noqa: PLC0415
    from eventstore.transfer.export import export_events as run  # noqa: PLC0415
    from eventstore.waits import load_waits  # noqa: PLC0415

    async with await connect(url, name=session_name("export"), waits=load_waits()) as conn:
        return await run(conn, file, _every("export"), replace=replace)


def _every(name: str) -> Callable[[int, int], None]:
    """Return what says, every few seconds, how far it is."""
    before = monotonic()

    def report(done: int, of: int) -> None:
        nonlocal before
        if monotonic() - before >= SECONDS:
            before = monotonic()
            say(f"{name}: {done:,} of {of:,} ({100 * done // max(of, 1)}%)")

    return report
