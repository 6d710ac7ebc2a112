"""``projections rebuild``: rebuilds read models from the log, or builds them as of a time in another schema."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from eventstore.errors import UsageError
from projections.cli.shared.common_options import JobsOption, JsonOption, ProjectionsArgument
from projections.cli.shared.difference_output import print_changes, print_samples
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, UNFINISHED_ROLLED_BACK, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import (
    FAILED,
    counted,
    print_data,
    print_json_line,
    print_left_out,
    print_message,
)
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.rebuild_json import BuiltAsOf, RebuiltProjection, describe_rebuilt
from projections.cli.shared.side_by_side import replay_all
from projections.cli.shared.typer_app import new_app
from projections.projection import Projection
from projections.rebuilding.as_of import AsOfResult, build_as_of
from projections.rebuilding.rebuild import Limits, Rebuilt
from projections.rebuilding.rebuild import rebuild as rebuild_one
from projections.rebuilding.replay_context import ReplayContext

app = new_app()

_WOULD_BE = {"missing": "added", "extra": "removed", "changed": "changed"}
"""What a rebuild does about each kind of difference."""
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@app.command()
@handles_errors
@writes_json(RebuiltProjection, BuiltAsOf, streams=True)
def rebuild(  # noqa: PLR0913 - one for each option
    names: ProjectionsArgument = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Rebuild all projections.")] = False,
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
    jobs: JobsOption = None,
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
    as_json: JsonOption = False,
) -> None:
    """Rebuild read models from the log, without downtime.

    Readers see the old rows or the new rows, never a mix. Use it after a new version of a projection, after a failure,
    or when verify found a difference.

    Exit code 0; 1 when a rebuild was refused or failed, or another one is running; 2 when the arguments are wrong.
    """
    if every == bool(names):
        raise UsageError("give projection names or --all, not both" if names else "give projection names, or --all")
    if (as_of is None) != (into is None) or (force and into is None):
        raise UsageError("--as-of TIME|EVENT_ID and --into SCHEMA must be given together; --force needs both")
    if as_of is not None and into is not None:
        if dry_run or resume or yes or max_changed is not None or jobs is not None:
            raise UsageError(
                "--as-of changes no read model: leave out --dry-run, --max-changed, --yes, --resume and --jobs"
            )
        _build_as_of(names or [], as_of, into, force=force, as_json=as_json)
        return
    if dry_run and max_changed is not None:
        raise UsageError("--dry-run changes nothing: leave out --max-changed")
    limits = _limits(max_changed, yes=yes)
    targets = replay_targets(names or [], jobs)
    print_left_out(targets.left_out)
    failed = list(targets.left_out)

    def replay(context: ReplayContext, projection: Projection) -> Coroutine[Any, Any, Rebuilt]:
        return rebuild_one(context, projection, limits=limits, dry_run=dry_run, resume=resume)

    def show(done: Rebuilt) -> None:
        if as_json:
            print_json_line(describe_rebuilt(done))
        else:
            _print_rebuilt(done)

    replay_all(targets, replay, show, failed, NOTHING_CHANGED if dry_run else UNFINISHED_ROLLED_BACK)
    if failed:
        raise typer.Exit(FAILED)


def _build_as_of(names: list[str], as_of: str, into: str, *, force: bool, as_json: bool) -> None:
    targets = replay_targets(names)
    print_left_out(targets.left_out)
    with shown_progress("as of") as progress:
        projections = list(targets.projections.values())
        work = build_as_of(targets.context(progress), projections, as_of, into, force=force)
        built = run_interruptible(work, if_interrupted=UNFINISHED_ROLLED_BACK)
    if as_json:
        document: BuiltAsOf = {
            "schema": into,
            "position": built.position,
            "received_at": built.received_at,
            "tables": [{"table": table, "rows": rows} for table, rows in built.rows.items()],
            "remarks": [*built.remarks],
        }
        print_json_line(document)
    else:
        _print_as_of(built, into)
    if targets.left_out:
        raise typer.Exit(FAILED)


def _print_as_of(built: AsOfResult, into: str) -> None:
    for table, rows in built.rows.items():
        print_data(f"{into}.{table}: {counted(rows, 'row')} as of position {built.position:,}")
    for remark in built.remarks:
        print_message(remark)
    if built.received_at:
        print_message(f"includes events received up to {built.received_at:%Y-%m-%dT%H:%M:%S.%fZ}")
    else:
        print_message("no event had been received by then")


def _limits(max_changed: str | None, *, yes: bool) -> Limits:
    if max_changed is None:
        return Limits(None, yes)
    match = _SHARE.fullmatch(max_changed.strip())
    if match is None or float(match[1]) > 100:
        raise UsageError(f"--max-changed {max_changed!r} is not a share of the rows: give one such as 0.1%")
    return Limits(float(match[1]) / 100, yes)


def _print_rebuilt(done: Rebuilt) -> None:
    total = sum(one.total for one in done.changes)
    if done.dry_run:
        print_data(f"{done.name}: a rebuild to position {done.position:,} would change {counted(total, 'row')}")
        print_changes(done.changes, "added", "removed", "changed")
        print_samples(done.samples, [_WOULD_BE[one.kind] for one in done.samples])
        return
    differed = counted(total, "row differed", "rows differed")
    print_data(f"{done.name}: rebuilt to position {done.position:,}, {differed}")
    print_changes(done.changes, "added", "removed", "changed")
    print_message(
        f"{done.name}: folded in {done.timings.fold:.1f} s, compared in {done.timings.compare:.1f} s,"
        f" held the checkpoint for {done.timings.apply:.2f} s"
    )
