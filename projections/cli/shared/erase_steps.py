"""Runs what ``projections erase`` is asked to do: the erasure, the checks after it, and the files that it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

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
from projections.cli.shared.output import print_error
from projections.cli.shared.progress import shown_progress
from projections.erasing.again import erase_again
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import ErasedPersons
from projections.erasing.final_checks import FinalChecks, check_after_erasure
from projections.erasing.other_places import tables_with_numbers
from projections.erasing.receipt import ErasureReceipt, describe_erasure, receipt_files, write_receipt
from projections.inspecting.erasure_ledger import refuse_to_replace
from projections.rebuilding.replay_context import ReplayContext

IF_INTERRUPTED = "each person was erased completely or not at all; run it again with the same persons for the rest"


@dataclass(slots=True)
class EraseOutcome:
    """What a job did.

    Attributes:
        done: who was erased, or would be; None if the erasure failed.
        checks: what was checked afterwards, as far as it went; None for a dry run.
        has_ledger: whether the configured ledger is written; if not, a message has said why.

    """

    done: ErasedPersons | None = None
    checks: FinalChecks | None = None
    has_ledger: bool = True

    @property
    def has_failed(self) -> bool:
        """Whether the exit code says that something is left to do."""
        is_left = self.checks is not None and self.checks.has_failed
        return is_left or not self.has_ledger or (self.done is not None and bool(self.done.not_erased))


def run_erase_job(
    targets: ReplayTargets,
    job: EraseJob,
    receipt: Path | None,
    *,
    verifies: bool,
    report: Callable[[ErasureReceipt], None],
) -> EraseOutcome:
    """Erase persons, write the ledger, check, write the receipt and report it; a dry run only counts.

    Whatever fails after persons were erased, the ledger has them, and the receipt says what was not checked: a second
    run would not find them.
    """
    outcome = EraseOutcome()
    try:
        with shown_progress("erase") as progress:
            _run_steps(outcome, targets, targets.context(progress), job, verifies=verifies)
    finally:
        if outcome.done is not None:
            document = describe_erasure(job.request, outcome.done, outcome.checks, at=datetime.now(UTC))
            if receipt is not None:
                write_receipt(receipt, document)
            report(document)
    return outcome


def _run_steps(
    outcome: EraseOutcome, targets: ReplayTargets, context: ReplayContext, job: EraseJob, *, verifies: bool
) -> None:
    if job.dry_run:
        outcome.done = _erase(targets, context, job)
        return
    if job.ledger is None:
        write_configured_ledger(targets)  # if it can't be written, nobody is erased
    checks = FinalChecks()
    try:
        outcome.done, outcome.checks = _erase(targets, context, job), checks
    finally:  # after an error, too: persons of earlier batches are erased
        outcome.has_ledger = _try_to_write_ledger(targets)
    _check(targets, context, outcome.done, checks, job.request.app, verifies=verifies)


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


def _check(
    targets: ReplayTargets,
    context: ReplayContext,
    done: ErasedPersons,
    checks: FinalChecks,
    app: str | None,
    *,
    verifies: bool,
) -> None:
    # An earlier run may have been killed before it cleaned up, and this one finds nothing to change.
    changed = [table for table, rows in done.tables.items() if rows] or tables_with_numbers(targets.projections)
    # Rows of the others differ from the log until they are rebuilt: that is said already.
    known = {name: one for name, one in targets.projections.items() if name not in done.need_rebuild}
    checking = check_after_erasure(
        context,
        known,
        done.gone,
        changed,
        checks,
        app=app,
        verifies=verifies,
        is_distributed=done.is_distributed,
    )
    run_interruptible(checking, if_interrupted="the persons were erased, but not everything was checked")


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


def refuse_newer_ledger(targets: ReplayTargets) -> None:
    """Make sure that the configured ledger can be replaced, before anybody is erased.

    Raises:
        ArchiveError: the file can't be read, or is none of ours.
        ProjectionsError: it has erasures that this database doesn't have.

    """
    path = load_erasure_settings().ledger_file
    if path is not None:
        run_interruptible(_refuse_newer_ledger(targets, path), if_interrupted=NOTHING_CHANGED)


async def _refuse_newer_ledger(targets: ReplayTargets, path: Path) -> None:
    async with await connect(targets.url, name=session_name("export"), waits=targets.waits) as conn:
        await refuse_to_replace(conn, path)


def write_configured_ledger(targets: ReplayTargets) -> None:
    """Write the ledger that ``PROJECTIONS_ERASURE_LEDGER_FILE`` names, unless it has more than this database.

    Raises:
        ArchiveError, ProjectionsError: as :func:`refuse_newer_ledger`; the file stays as it was.

    """
    path = load_erasure_settings().ledger_file
    if path is None:
        return

    async def write() -> None:
        await _refuse_newer_ledger(targets, path)
        async with await connect(targets.url, name=session_name("export"), waits=targets.waits) as conn:
            await export_erasures(conn, path)

    run_interruptible(write(), if_interrupted=f"{path} was not written: run projections export erasures {path} --force")


def _try_to_write_ledger(targets: ReplayTargets) -> bool:
    """Write the ledger; if that fails, print why and return false, since checks, receipt or another error follow."""
    try:
        write_configured_ledger(targets)
    except typer.Exit:  # interrupted
        raise
    except Exception as error:  # noqa: BLE001 - the persons are erased already, whatever it is
        print_error(error)
        return False
    return True
