"""Runs what ``projections erase`` is asked to do: the erasure, the checks after it, and the files that it writes."""

from __future__ import annotations

from pathlib import Path

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.erasure.erasure_key import load_erasure_settings
from eventstore.errors import ArchiveError, UsageError
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.transfer.export import export_erasures
from eventstore.transfer.new_file import check_output_path
from projections.cli.shared.erase_job import EraseJob
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.open_database import ReplayTargets
from projections.cli.shared.progress import shown_progress
from projections.erasing.again import erase_again
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import ErasedPersons
from projections.erasing.final_checks import FinalChecks, check_after_erasure
from projections.erasing.receipt import receipt_files
from projections.rebuilding.replay_context import ReplayContext

IF_INTERRUPTED = "each person is erased or untouched; run it again for the rest, with the same persons"


def run_erase_job(targets: ReplayTargets, job: EraseJob, *, verifies: bool) -> tuple[ErasedPersons, FinalChecks | None]:
    """Erase persons, and check afterwards; a dry run only counts, and checks nothing."""
    with shown_progress("erase") as progress:
        context = targets.context(progress)
        done = _erase(targets, context, job)
        return done, None if job.dry_run else _check(targets, context, done, verifies=verifies)


def _erase(targets: ReplayTargets, context: ReplayContext, job: EraseJob) -> ErasedPersons:
    limits, request = load_quarantine_limits(), job.request
    if job.ledger is not None:
        work = erase_again(
            context,
            targets.projections,
            job.ledger,
            limits,
            system_user=request.system_user,
            drop_as_of=request.drop_as_of,
        )
    else:
        work = erase_persons(context, targets.projections, request, limits, dry_run=job.dry_run)
    return run_interruptible(work, if_interrupted=NOTHING_CHANGED if job.dry_run else IF_INTERRUPTED)


def _check(targets: ReplayTargets, context: ReplayContext, done: ErasedPersons, *, verifies: bool) -> FinalChecks:
    changed = [table for table, rows in done.tables.items() if rows]
    # Rows of the others differ from the log until they are rebuilt: that is said already.
    known = {name: one for name, one in targets.projections.items() if name not in done.need_rebuild}
    checking = check_after_erasure(context, known, done.numbers, changed, verifies=verifies)
    return run_interruptible(checking, if_interrupted="the persons are erased; only checks are missing")


def check_receipt_files(path: Path) -> None:
    """Make sure that a receipt can be written, before anything is erased.

    Raises:
        UsageError: one of its files exists, or can't be written.

    """
    for name in receipt_files(path):
        try:
            check_output_path(name)
        except ArchiveError as error:
            raise UsageError(str(error)) from error
        if name.exists():
            raise UsageError(f"{name} already exists; choose another name for the receipt")


def write_configured_ledger(targets: ReplayTargets) -> None:
    """Write the ledger that ``PROJECTIONS_ERASURE_LEDGER_FILE`` names."""
    path = load_erasure_settings().ledger_file
    if path is None:
        return

    async def write() -> None:
        async with await connect(targets.url, name=session_name("export"), waits=targets.waits) as conn:
            await export_erasures(conn, path)

    run_interruptible(write(), if_interrupted=f"{path} was not written: run projections export erasures {path} --force")
