"""``projections erase``: erases persons from the log, the read models and everything else that the engine wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventstore.errors import UsageError
from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.completed_values import complete_app
from projections.cli.shared.confirm import confirm
from projections.cli.shared.erase_job import EraseJob, GivenPersons, new_erase_job
from projections.cli.shared.erase_steps import check_receipt_files, refuse_newer_ledger, run_erase_job
from projections.cli.shared.erasure_check import CheckedNumbers, answer_about_numbers
from projections.cli.shared.erasure_output import print_erasure
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import replay_targets
from projections.cli.shared.output import FAILED, print_json, print_left_out
from projections.cli.shared.typer_app import new_app
from projections.erasing.number_list import read_numbers
from projections.erasing.receipt import ErasureReceipt

app = new_app()


@app.command()
@handles_errors
@writes_json(ErasureReceipt, CheckedNumbers)
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
    check: Annotated[
        bool, typer.Option("--check", help="Only answer whether the numbers were erased; needs the erasure key.")
    ] = False,
    again: Annotated[
        Path | None,
        typer.Option(metavar="LEDGER", help="After a restore: erase the persons of this file of erasures again."),
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

    Exit code 1 when a number is left somewhere, or a read model differs from the log; with --check, when one was not
    erased. What can't be reached (backups, the write-ahead log, exported files) is listed.
    """
    if check:
        if any((older_than, app_name, why, dry_run, receipt, again, drop_as_of, no_verify, yes)):
            raise UsageError("--check takes numbers, --from and --json only")
        answer_about_numbers(read_numbers(numbers or [], source), as_json=as_json)
        return
    given = GivenPersons(numbers or [], source, older_than, again)
    job = new_erase_job(
        given, app=app_name, why=why, dry_run=dry_run, drop_as_of=drop_as_of, receipt=receipt is not None
    )
    if receipt is not None:
        check_receipt_files(receipt)
    _run(job, receipt, verifies=not no_verify, yes=yes, as_json=as_json)


def _run(job: EraseJob, receipt: Path | None, *, verifies: bool, yes: bool, as_json: bool) -> None:
    targets = replay_targets([])
    print_left_out(targets.left_out)
    if not job.dry_run:
        if job.ledger is None:
            refuse_newer_ledger(targets)
        confirm([job.consequence], yes=yes)
    report = print_json if as_json else print_erasure
    outcome = run_erase_job(targets, job, receipt, verifies=verifies, report=report)
    if outcome.has_failed or targets.broken:
        raise typer.Exit(FAILED)
