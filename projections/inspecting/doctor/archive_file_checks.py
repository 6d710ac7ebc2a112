"""Checks of archived events: whether their files are where they are looked for, and whether they are up to date.

Only names and sizes of files are compared: digests are computed when the files are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from eventstore.archived_rows import ArchivedPartition, read_archived_partitions
from eventstore.archiving.archive_folder import SET_FOLDER
from eventstore.erasure.erasure_rows import read_last_erasure
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding


async def check_archives(exam: Examination) -> AsyncIterator[Finding]:
    """Find archived events whose files are missing, changed, or have events of erased persons."""
    partitions = await read_archived_partitions(exam.conn)
    dropped = [one for one in partitions if one.dropped_at is not None]
    folder = exam.options.archive
    if dropped:
        positions = f"positions {dropped[0].first:,} to {dropped[-1].last:,} are archived"
        if folder is None:
            yield Finding("archive_missing", f"{positions}, and no folder is set", advice=SET_FOLDER)
        elif wrong := [name for one in dropped for name in _find_wrong_files(one, folder)]:
            some = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            sentence = f"{positions}, and files are missing or changed in {folder}: {some}"
            yield Finding("archive_missing", sentence, advice="put the files back, or set PROJECTIONS_ARCHIVE")
    erasure = await read_last_erasure(exam.conn)
    owed = [one for one in partitions if one.erasure < erasure or one.to_delete]
    if owed:
        sentence = f"{len(owed):,} files of archived events may have persons who were erased since"
        yield Finding("archive_has_erased", sentence, "projections archive")
    for one in partitions:
        if one.dropped_at is None:
            sentence = f"positions {one.first:,} to {one.last:,} are in {one.file}, and still in the log"
            yield Finding("archive_unfinished", sentence, advice="run the same projections archive once more")


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
