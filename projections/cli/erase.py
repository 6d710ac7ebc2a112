"""``projections erase``: erases persons from the log, the read models and everything else that the engine wrote."""

from __future__ import annotations

import getpass
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.errors import ArchiveError, UsageError
from eventstore.transfer.new_file import check_output_path
from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.completed_values import complete_app
from projections.cli.shared.confirm import confirm
from projections.cli.shared.erasure_output import print_erasure
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import ReplayTargets, replay_targets
from projections.cli.shared.output import FAILED, counted, print_json, print_left_out
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.typer_app import new_app
from projections.erasing.erase import ErasedPersons, EraseRequest, erase_persons
from projections.erasing.final_checks import FinalChecks, check_after_erasure
from projections.erasing.number_list import read_numbers
from projections.erasing.receipt import ErasureReceipt, describe_erasure, receipt_files, write_receipt

app = new_app()

IF_INTERRUPTED = "each person is erased or untouched; run it again for the rest, with the same numbers"
_AGE = re.compile(r"(\d{1,6})d")


@app.command()
@handles_errors
@writes_json(ErasureReceipt)
def erase(  # noqa: PLR0913 - one for each option
    numbers: Annotated[
        list[str] | None, typer.Argument(metavar="PPNUM", help="The persons' phone numbers, as the events have them.")
    ] = None,
    *,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Read numbers from a file, one a line; - for standard input."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="DAYS", help="Erase every person whose last event is older, such as 730d."),
    ] = None,
    app_name: Annotated[
        str | None,
        typer.Option("--app", metavar="APP", help="Only in this app.", autocompletion=complete_app),
    ] = None,
    why: Annotated[
        str | None, typer.Option(metavar="TEXT", callback=storable_text, help="The reason, for the record.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the rows, but change nothing.")] = False,
    receipt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the receipt to this file as JSON, and beside it as a page to print."),
    ] = None,
    drop_as_of: Annotated[
        bool, typer.Option("--drop-as-of", help="Drop as-of schemas that have rows of these persons.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Don't verify the read models afterwards, which reads the whole log.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Erase persons, and keep every count as it is.

    Each person gets a random token. It takes the place of the phone number in the stored events and in the read models,
    so that counts, tallies and rebuilds stay what they were. The command reads the log once, then erases the persons in
    short transactions beside everything else that runs, and ends with a check: the read models equal the log, and no
    column of the database has the number.

    Exit code 1 when a number is left somewhere, or a read model differs from the log. What can't be reached (backups,
    the write-ahead log, exported files) is listed.
    """
    request = _request(numbers or [], source, older_than, app_name, why, dry_run=dry_run, drop_as_of=drop_as_of)
    if receipt is not None:
        _check_receipt_files(receipt)
    targets = replay_targets([])
    print_left_out(targets.left_out)
    if not dry_run:
        confirm([_consequence(request)], yes=yes)
    done, checks = _run(targets, request, dry_run=dry_run, verifies=not no_verify)
    document = describe_erasure(request, done, checks, at=datetime.now(UTC))
    if receipt is not None:
        write_receipt(receipt, document)
    if as_json:
        print_json(document)
    else:
        print_erasure(document)
    if (checks is not None and checks.has_failed) or targets.broken:
        raise typer.Exit(FAILED)


def _request(
    numbers: list[str],
    source: Path | None,
    older_than: str | None,
    app_name: str | None,
    why: str | None,
    *,
    dry_run: bool,
    drop_as_of: bool,
) -> EraseRequest:
    if older_than is None and not numbers and source is None:
        raise UsageError("give the numbers of the persons, --from a file with them, or --older-than")
    if older_than is not None and (numbers or source is not None):
        raise UsageError("give numbers or --older-than, not both")
    if not (why or "").strip() and not dry_run:
        raise UsageError("give the reason with --why; it is kept with the erasure")
    chosen = None if older_than is not None else read_numbers(numbers, source)
    if chosen == []:
        raise UsageError(f"{source} has no number")
    return EraseRequest(
        numbers=chosen,
        why=why or "",
        system_user=_system_user(),
        app=app_name,
        older_than=None if older_than is None else _age(older_than),
        key=load_erasure_key(),
        drop_as_of=drop_as_of,
    )


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None or match[1] == "0":
        raise UsageError("--older-than takes a number of days, such as 730d")
    return timedelta(days=int(match[1]))


def _system_user() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown user"


def _check_receipt_files(path: Path) -> None:
    for name in receipt_files(path):
        try:
            check_output_path(name)
        except ArchiveError as error:
            raise UsageError(str(error)) from error
        if name.exists():
            raise UsageError(f"{name} already exists; choose another name for the receipt")


def _consequence(request: EraseRequest) -> str:
    where = "every app" if request.app is None else f"app {request.app!r}"
    if request.numbers is None:
        days = request.older_than.days if request.older_than is not None else 0
        return f"every person whose last event is older than {counted(days, 'day')} will be erased in {where}, for good"
    return f"{counted(len(request.numbers), 'person', 'persons')} will be erased in {where}, for good"


def _run(
    targets: ReplayTargets, request: EraseRequest, *, dry_run: bool, verifies: bool
) -> tuple[ErasedPersons, FinalChecks | None]:
    limits = load_quarantine_limits()
    with shown_progress("erase") as progress:
        context = targets.context(progress)
        work = erase_persons(context, targets.projections, request, limits, dry_run=dry_run)
        done = run_interruptible(work, if_interrupted=NOTHING_CHANGED if dry_run else IF_INTERRUPTED)
        if dry_run:
            return done, None
        changed = [table for table, rows in done.tables.items() if rows]
        checking = check_after_erasure(context, targets.projections, done.numbers, changed, verifies=verifies)
        return done, run_interruptible(checking, if_interrupted="the persons are erased; only checks are missing")
