"""Runs what ``projections erase`` is asked to do: the erasure, the checks after it, and the files that it writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.erasure.erasure_key import load_erasure_settings
from eventstore.errors import ArchiveError, UsageError
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.redaction.redact import redact
from eventstore.transfer.export import export_erasures
from eventstore.transfer.new_file import check_output_path
from projections.cli.shared.erase_job import EraseJob
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.open_database import ReplayTargets
from projections.cli.shared.output import LogLevel, counted, print_message
from projections.cli.shared.progress import shown_progress
from projections.erasing.again import erase_again
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import ErasedPersons
from projections.erasing.final_checks import FinalChecks, check_after_erasure
from projections.erasing.other_places import tables_with_numbers
from projections.erasing.receipt import ErasureReceipt, describe_erasure, receipt_files, write_receipt
from projections.errors import ProjectionsError
from projections.inspecting.erasure_ledger import count_only_in_ledger
from projections.rebuilding.replay_context import ReplayContext


@dataclass(frozen=True, slots=True)
class EraseOutcome:
    """What is printed, and whether the exit code says that something is left to do."""

    document: ErasureReceipt
    has_failed: bool = False


IF_INTERRUPTED = "each person is erased or untouched; run it again for the rest, with the same persons"


def run_erase_job(targets: ReplayTargets, job: EraseJob, receipt: Path | None, *, verifies: bool) -> EraseOutcome:
    """Erase persons, write the ledger, check, and write the receipt; a dry run only counts.

    Whatever fails after persons were erased, the ledger has them, and the receipt says what was not checked.
    """
    with shown_progress("erase") as progress:
        context = targets.context(progress)
        if job.dry_run:
            return EraseOutcome(
                describe_erasure(job.request, _erase(targets, context, job), None, at=datetime.now(UTC))
            )
        try:
            done = _erase(targets, context, job)
        except BaseException:
            _write_ledger_after_failure(targets)
            raise
        write_configured_ledger(targets)
        checks = FinalChecks()
        try:
            checks = _check(targets, context, done, job.request.app, verifies=verifies)
        finally:
            document = describe_erasure(job.request, done, checks, at=datetime.now(UTC))
            if receipt is not None:
                write_receipt(receipt, document)
        return EraseOutcome(document, has_failed=checks.has_failed or bool(done.not_erased))


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
    targets: ReplayTargets, context: ReplayContext, done: ErasedPersons, app: str | None, *, verifies: bool
) -> FinalChecks:
    # An earlier run may have been killed before it cleaned up, and this one finds nothing to change.
    changed = [table for table, rows in done.tables.items() if rows] or tables_with_numbers(targets.projections)
    # Rows of the others differ from the log until they are rebuilt: that is said already.
    known = {name: one for name, one in targets.projections.items() if name not in done.need_rebuild}
    checking = check_after_erasure(context, known, done.gone, changed, app=app, verifies=verifies)
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
        missing = await count_only_in_ledger(conn, path)
    if missing:
        raise ProjectionsError(
            f"the ledger {path} has {counted(missing, 'erasure')} that this database doesn't have, as after a restore;"
            f" first run projections erase --again {path}"
        )


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


def _write_ledger_after_failure(targets: ReplayTargets) -> None:
    """Write the ledger after an error: persons of earlier batches are erased. The error itself is what is reported."""
    try:
        write_configured_ledger(targets)
    except Exception as error:  # noqa: BLE001 - the database may be unavailable; doctor compares the ledger
        print_message(f"projections: the ledger was not written: {redact(str(error))}", level=LogLevel.ERROR)
