"""Compares the ledger of erased persons that the settings name with the log: after a restore, the ledger is newer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.erasure.erasure_rows import has_token
from eventstore.errors import ArchiveError
from eventstore.transfer.erasure_records import newest_erasure_of_file


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


async def describe_ledger(conn: AsyncConnection[Any], ledger: Path | None) -> str | None:
    """Return what is wrong with a ledger, as :func:`describe_newer_ledger` does; a file that can't be read is wrong."""
    try:
        return await describe_newer_ledger(conn, ledger)
    except ArchiveError as error:
        return f"the ledger of erased persons can't be compared: {error}"
