"""Checks of archived events: whether their files are where they are looked for, and whether they are up to date.

Only names and sizes of files are compared: digests are computed when the files are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from eventstore.archived_rows import ArchivedPartition, read_archived_partitions
from eventstore.archiving.archive_folder import SET_FOLDER
from eventstore.erasure.erasure_rows import read_last_erasure
from eventstore.locks import ERASE_LOCK
from eventstore.postgres.lock_holder import find_holder_name
from eventstore.postgres.session_lock import is_session_of
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding


async def check_archives(exam: Examination) -> AsyncIterator[Finding]:
    """Find archived events whose files are missing, changed, or have events of erased persons."""
    partitions, wrong = await _compare_with_folder(exam)
    dropped = [one for one in partitions if one.dropped_at is not None]
    if dropped:
        positions = f"positions {dropped[0].first:,} to {dropped[-1].last:,} are archived"
        if exam.options.archive is None:
            yield Finding("archive_missing", f"{positions}, and no folder is set", advice=SET_FOLDER)
        elif wrong:
            some = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            sentence = f"{positions}, and files are missing or changed in {exam.options.archive}: {some}"
            yield Finding("archive_missing", sentence, advice="put the files back, or set PROJECTIONS_ARCHIVE")
    async for finding in _find_unfinished_work(exam):
        yield finding


async def _find_unfinished_work(exam: Examination) -> AsyncIterator[Finding]:
    """Find what an erase or archive left undone, or is at work on."""
    erasure = await read_last_erasure(exam.conn)
    holder = await find_holder_name(exam.conn, ERASE_LOCK)
    is_at_work = is_session_of(holder, "erase", "archive")
    # Read after the look: whoever released the lock has recorded what it did, and a later erasure isn't counted yet.
    partitions = await read_archived_partitions(exam.conn)
    owed = [one for one in partitions if one.erasure < erasure or one.to_delete]
    if owed:
        sentence = f"{len(owed):,} files of archived events may have persons who were erased since"
        if is_at_work:
            yield Finding("archive_has_erased", sentence, advice=f"wait for {holder}, and look again")
        else:
            yield Finding("archive_has_erased", sentence, "projections archive")
    for one in partitions:
        if one.dropped_at is None and not is_at_work:
            sentence = f"positions {one.first:,} to {one.last:,} are in {one.file}, and still in the log"
            yield Finding("archive_unfinished", sentence, advice="run the same projections archive once more")


async def _compare_with_folder(exam: Examination) -> tuple[list[ArchivedPartition], list[str]]:
    """Return the partitions with files, and the files of dropped ones that are missing or have another size."""
    partitions, folder = await read_archived_partitions(exam.conn), exam.options.archive
    while folder is not None:
        dropped = (one for one in partitions if one.dropped_at is not None)
        wrong = [name for one in dropped for name in _find_wrong_files(one, folder)]
        again = await read_archived_partitions(exam.conn) if wrong else partitions
        if again == partitions:
            return partitions, wrong
        partitions = again  # an erase has written a file anew, and deleted the old one
    return partitions, []


def _find_wrong_files(one: ArchivedPartition, folder: Path) -> list[str]:
    wrong = []
    for file in one.files:
        try:
            is_right = (folder / file.name).stat().st_size == file.size
        except OSError:
            is_right = False
        if not is_right:
            wrong.append(file.name)
    return wrong
