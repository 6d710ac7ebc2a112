"""``projections rebuild`` and ``projections verify``: rows by replay, and the proof that rows equal the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import psycopg
import typer

from eventstore.errors import LockHeld, LockLost, is_connection_lost
from projections.cli.shared.interruptible import NOTHING_CHANGED, WHOLE_OR_NOT, run_once
from projections.cli.shared.output import FAILED, counted, echo, say, say_error, say_left_out, says_errors
from projections.errors import ProjectionsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from projections.rebuilding.rebuild import Limits, Rebuilt
    from projections.rebuilding.row_changes import Changes, Sample

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Projection names.")]

_WOULD_BE = {"missing": "added", "extra": "removed", "changed": "changed"}
"""What a rebuild does about each kind of difference."""
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@says_errors
def rebuild(  # noqa: PLR0913 - one for each option
    names: Names = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Rebuild all projections, one after another.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, but change nothing.")] = False,
    max_changed: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Refuse to change more than this share of a table's rows, such as 0.1%."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Allow removing more than 10% of a table's rows.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted rebuild, if nothing that it depends on has changed."),
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|EVENT_ID", help="Build the rows as they were known then, in another schema; needs --into."
        ),
    ] = None,
    into: Annotated[str | None, typer.Option(metavar="SCHEMA", help="The new schema for --as-of.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the schema of --into, if this command created it.")
    ] = False,
) -> None:
    """Rebuild read models from the log, without downtime.

    Readers see the old rows or the new rows, never a mix. Use it after a new version of a projection, after a failure,
    or when verify found a difference.

    Exit code 0; 1 when a rebuild was refused or failed, or another one is running; 2 when the arguments are wrong.
    """
    if every == bool(names):
        raise UsageError("give projection names or --all, not both" if names else "give projection names, or --all")
    if (as_of is None) != (into is None) or (force and into is None):
        raise UsageError("--as-of TIME|EVENT_ID and --into SCHEMA go together, and --force with them")
    if as_of is not None and into is not None:
        if dry_run or resume or yes or max_changed is not None:
            raise UsageError("--as-of changes no read model: leave --dry-run, --max-changed, --yes and --resume out")
        _as_of(names or [], as_of, into, force=force)
        return
    if dry_run and max_changed is not None:
        raise UsageError("--dry-run shows what would change, however much: leave --max-changed out")
    limits = _limits(max_changed, yes=yes)
    from projections.cli.shared.open_database import replay_targets  # noqa: PLC0415 - loaded when it runs
    from projections.cli.shared.progress import showing  # noqa: PLC0415
    from projections.rebuilding.rebuild import rebuild as run  # noqa: PLC0415

    targets = replay_targets(names or [])
    say_left_out(targets.left_out)
    failed = list(targets.left_out)
    for name, projection in targets.projections.items():
        with _each_by_itself(name, failed):
            with showing(name) as progress:
                context = targets.context(progress)
                work = run(context, projection, limits=limits, dry_run=dry_run, resume=resume)
                done = run_once(work, holds=NOTHING_CHANGED if dry_run else WHOLE_OR_NOT)
            _tell(done)
    if failed:
        raise typer.Exit(FAILED)


@says_errors
def verify(names: Names = None) -> None:
    """Check that read models equal the log.

    Each projection is replayed up to its checkpoint and compared; without names, all of them. Nothing is changed.

    Exit code 1 when rows differ: the first ones are shown, with the events behind them. To repair them, run projections
    rebuild NAME.
    """
    from projections.cli.shared.open_database import replay_targets  # noqa: PLC0415 - loaded when it runs
    from projections.cli.shared.progress import showing  # noqa: PLC0415
    from projections.inspecting.row_events import list_events_behind  # noqa: PLC0415
    from projections.rebuilding.rebuild import REMOVABLE  # noqa: PLC0415
    from projections.rebuilding.verify import verify as run  # noqa: PLC0415

    targets = replay_targets(names or [])
    say_left_out(targets.left_out)
    failed = list(targets.left_out)
    for name, projection in targets.projections.items():
        with _each_by_itself(name, failed):
            with showing(name) as progress:
                found = run_once(run(targets.context(progress), projection), holds=NOTHING_CHANGED)
            rows = sum(one.before for one in found.changes)
            if found.equal:
                equal = counted(rows, "row equals", "rows equal")
                echo(f"{name}: {equal} the log at position {found.position:,}")
                continue
            failed.append(name)
            differing = counted(sum(one.total for one in found.changes), "row differs", "rows differ")
            echo(f"{name}: {differing} from the log at position {found.position:,}")
            _echo_changes(found.changes, "missing", "extra", "changed")
            with showing(name, only_long=True) as progress:
                looking = list_events_behind(targets.context(progress), projection, found.samples, found.position)
                behind = run_once(looking, holds=NOTHING_CHANGED)
            _echo_samples(found.samples, [one.kind for one in found.samples], behind)
            yes = any(one.removed > REMOVABLE * one.before for one in found.changes)
            say(f"to repair it: projections rebuild {name}{' --yes' if yes else ''}")
    if failed:
        raise typer.Exit(FAILED)


@contextmanager
def _each_by_itself(name: str, failed: list[str]) -> Iterator[None]:
    """Say what is wrong with one projection, and let the others have their turn, if the database is still there."""
    try:
        yield
    except (ProjectionsError, UsageError, LockHeld, LockLost) as error:
        say_error(error)
        failed.append(name)
    except psycopg.Error as error:
        if is_connection_lost(error):
            raise
        say_error(error, of=name)
        failed.append(name)


def _as_of(names: list[str], as_of: str, into: str, *, force: bool) -> None:
    from projections.cli.shared.open_database import replay_targets  # noqa: PLC0415
    from projections.cli.shared.progress import showing  # noqa: PLC0415
    from projections.rebuilding.as_of import build_as_of  # noqa: PLC0415 - loaded when it runs

    targets = replay_targets(names)
    say_left_out(targets.left_out)
    with showing("as of") as progress:
        projections = list(targets.projections.values())
        work = build_as_of(targets.context(progress), projections, as_of, into, force=force)
        built = run_once(work, holds=WHOLE_OR_NOT)
    for table, rows in built.rows.items():
        echo(f"{into}.{table}: {counted(rows, 'row')} as of position {built.position:,}")
    for remark in built.remarks:
        say(remark)
    say(
        f"received by then: up to {built.received_at:%Y-%m-%dT%H:%M:%S.%fZ}" if built.received_at else "nothing by then"
    )
    if targets.left_out:
        raise typer.Exit(FAILED)


def _limits(max_changed: str | None, *, yes: bool) -> Limits:
    from projections.rebuilding.rebuild import Limits  # noqa: PLC0415 - loaded when it runs

    if max_changed is None:
        return Limits(None, yes)
    match = _SHARE.fullmatch(max_changed.strip())
    if match is None or float(match[1]) > 100:
        raise UsageError(f"--max-changed {max_changed!r} is not a share of the rows: give one, as 0.1%")
    return Limits(float(match[1]) / 100, yes)


def _tell(done: Rebuilt) -> None:
    total = sum(one.total for one in done.changes)
    if done.dry_run:
        echo(f"{done.name}: a rebuild to position {done.position:,} would change {counted(total, 'row')}")
        _echo_changes(done.changes, "added", "removed", "changed")
        _echo_samples(done.samples, [_WOULD_BE[one.kind] for one in done.samples])
        return
    differed = counted(total, "row differed", "rows differed")
    echo(f"{done.name}: rebuilt to position {done.position:,}, {differed}")
    _echo_changes(done.changes, "added", "removed", "changed")
    say(
        f"{done.name}: folded in {done.timings.fold:.1f} s, compared in {done.timings.compare:.1f} s,"
        f" held the checkpoint for {done.timings.apply:.2f} s"
    )


def _echo_changes(changes: Sequence[Changes], added: str, removed: str, changed: str) -> None:
    for one in changes:
        counts = f"{one.added:,} {added}, {one.removed:,} {removed}, {one.changed:,} {changed}"
        echo(f"  {one.table}: {counts}, of {one.before:,}")


def _echo_samples(samples: Sequence[Sample], kinds: Sequence[str], behind: Sequence[Sequence[str]] = ()) -> None:
    for number, (one, kind) in enumerate(zip(samples, kinds, strict=True)):
        key = ", ".join(f"{name}={value}" for name, value in one.key.items())
        echo(f"  {one.table} ({key}): {kind}")
        if one.old is not None and one.new is not None:
            for name, value in one.old.items():
                echo(f"    {name}: {_value(value)} → {_value(one.new[name])}")
        else:
            row = one.new or one.old or {}
            values = ", ".join(
                f"{name}={_value(value)}" for name, value in row.items() if name not in one.key and value is not None
            )
            echo(f"    no row → {values}" if one.old is None else f"    {values} → no row")
        for line in behind[number] if number < len(behind) else ():
            echo(f"    {line}")


def _value(value: object) -> str:
    from projections.cli.shared.cell_text import shown  # noqa: PLC0415 - loaded when it runs

    return shown(value)
