"""Compares the ledger of erased persons that the settings name with the log: after a restore, the ledger is newer.

Status and doctor read the beginning of the file only. Whoever replaces the file reads all of it.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.erasure.erasure_rows import are_all_applied, count_erasures, find_unknown_tokens, has_token
from eventstore.errors import ArchiveError
from eventstore.locks import ERASE_LOCK
from eventstore.postgres.lock_holder import find_holder_name
from eventstore.postgres.session_lock import is_session_of
from eventstore.transfer.archive import check_archive
from eventstore.transfer.archive_checks import RecordCheck
from eventstore.transfer.erasure_records import erasures_of_file, newest_erasure_of_file
from projections.errors import ProjectionsError

PAGE = 5_000


async def describe_newer_ledger(conn: AsyncConnection[Any], ledger: Path | None) -> str | None:
    """Return a sentence if a ledger has an erasure that this log doesn't have; None if it hasn't, or there is no file.

    Only the beginning of the file is read.

    Raises:
        ArchiveError: the file can't be read, or is none of ours.
        psycopg.Error: the database failed, or the connection.

    """
    newest = None if ledger is None else newest_erasure_of_file(ledger)
    if newest is None or await has_token(conn, newest):
        return None
    return (
        f"the ledger {ledger} has erased persons who are not erased in this database, as after a restore;"
        f" run projections erase --again {ledger}"
    )


async def describe_unfinished_erasures(conn: AsyncConnection[Any]) -> str | None:
    """Return a sentence if ``erase --again`` was begun and has not ended; None otherwise."""
    if await are_all_applied(conn):
        return None
    holder = await find_holder_name(conn, ERASE_LOCK)
    if await are_all_applied(conn):  # it has ended meanwhile
        return None
    what = "run projections erase --again with that ledger to its end"
    if is_session_of(holder, "erase"):
        what = f"wait for {holder}, and look again"
    return f"persons of a ledger are in the log with their numbers until all of it is applied; {what}"


async def is_older_ledger(conn: AsyncConnection[Any], ledger: Path | None) -> bool:
    """Return whether a ledger lacks the newest erasure of this log; false if there is no file."""
    if ledger is None or not _exists(ledger):
        return False
    return newest_erasure_of_file(ledger) != (await count_erasures(conn))[1]


async def count_only_in_ledger(conn: AsyncConnection[Any], ledger: Path) -> int:
    """Return how many erasures of a ledger this log doesn't have; 0 if there is no file. Reads the whole file.

    Raises:
        ArchiveError: the file can't be read, is damaged, or is none of ours.
        psycopg.Error: the database failed, or the connection.

    """
    if not _exists(ledger):
        return 0
    await check_archive(ledger, RecordCheck().fault)
    found = 0
    erasures = erasures_of_file(ledger)
    while page := [one.token for one in islice(erasures, PAGE)]:
        found += len(await find_unknown_tokens(conn, page))
    return found


async def refuse_to_replace(conn: AsyncConnection[Any], ledger: Path) -> None:
    """Make sure that nothing is lost when a ledger is replaced by one of this log.

    Raises:
        ArchiveError: the file can't be read, is damaged, or is none of ours.
        ProjectionsError: it has erasures that this log doesn't have.
        psycopg.Error: the database failed, or the connection.

    """
    missing = await count_only_in_ledger(conn, ledger)
    if missing:
        erasures = "1 erasure" if missing == 1 else f"{missing:,} erasures"
        raise ProjectionsError(
            f"the ledger {ledger} has {erasures} that this database doesn't have, as after a restore; first run"
            f" projections erase --again {ledger}"
        )


def _exists(ledger: Path) -> bool:
    return ledger.exists()


async def describe_ledger(conn: AsyncConnection[Any], ledger: Path | None) -> str | None:
    """Return what is wrong with a ledger or with applying it; a file that can't be read is wrong too."""
    try:
        return await describe_newer_ledger(conn, ledger) or await describe_unfinished_erasures(conn)
    except ArchiveError as error:
        return f"the ledger of erased persons can't be compared: {error}"
