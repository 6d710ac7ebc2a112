"""Checks that the log has an event at each position.

A fold counts the events of each window, so what a checkpoint has passed was whole then. So the first position, the last
ones and those after each checkpoint are examined, whatever the size of the log; ``--thorough`` examines all, in short
statements, so that no snapshot lasts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from eventstore.archived_rows import read_archived_up_to
from eventstore.distributed_log import is_distributed, wait_for_commits
from eventstore.errors import UnfinishedCommit
from eventstore.event_reader import read_head
from eventstore.postgres.queries import fetch_column
from eventstore.whole_window import find_missing_positions
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

EXAMINED = 10_000
"""Positions that are examined at each place."""
PAGE = 500_000
"""Positions that one statement of a thorough examination reads."""
REPORTED = 10
"""Ranges of missing positions that a thorough examination reports."""
COMMIT_PATIENCE = 1.0
"""Seconds to wait for unfinished commits, which may have the positions that are missing."""

_CHECKPOINTS = "SELECT position FROM projections.checkpoints ORDER BY 1"


async def check_positions(exam: Examination) -> AsyncIterator[Finding]:
    """Find missing positions where nothing has counted them yet."""
    head, archived = await read_head(exam.conn), await read_archived_up_to(exam.conn)
    starts = {head - EXAMINED, *await fetch_column(exam.conn, _CHECKPOINTS)}
    found = set()
    for lo, number in sorted({(archived, 1), *((max(one, archived), EXAMINED) for one in starts)}):
        hi = min(lo + number, head)
        if hi > lo and (missing := await _find_missing(exam, lo, hi)) is not None:
            found.add(missing)
    for first, last in sorted(found):
        yield _finding(first, last)


async def check_all_positions(exam: Examination) -> AsyncIterator[Finding]:
    """Find missing positions in the whole log, up to a limit."""
    head, lo, found = await read_head(exam.conn), await read_archived_up_to(exam.conn), 0
    while lo < head and found < REPORTED:
        hi = min(lo + PAGE, head)
        missing = await _find_missing(exam, lo, hi)
        if missing is not None:
            found += 1
            yield _finding(*missing)
        lo = hi if missing is None else missing[1]


async def _find_missing(exam: Examination, lo: int, hi: int) -> tuple[int, int] | None:
    """Return the first missing positions in lo < p <= hi; None if none is missing, or if a worker may yet commit them.

    Where the log is distributed, the head is visible a moment before the events on other servers.
    """
    missing = await find_missing_positions(exam.conn, lo, hi)
    while missing is not None and missing[0] <= (archived := await read_archived_up_to(exam.conn)):
        lo = archived  # they were archived since the examination began
        missing = await find_missing_positions(exam.conn, lo, hi) if lo < hi else None
    if missing is None or not await is_distributed(exam.conn):
        return missing
    try:
        await wait_for_commits(exam.conn, COMMIT_PATIENCE)
    except UnfinishedCommit:
        return None
    return await find_missing_positions(exam.conn, lo, hi)


def _finding(first: int, last: int) -> Finding:
    what = f"position {first:,} is" if first == last else f"positions {first:,} to {last:,} are"
    advice = "import an export of this log"
    return Finding("missing_positions", f"{what} missing in the log", "projections import events FILE", advice)
