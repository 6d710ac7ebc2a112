"""Checks of the disk: its free room where the server runs on this machine, and what the database takes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from eventstore.distributed_log import is_distributed
from eventstore.postgres.queries import fetch_row, fetch_value
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

_HERE = ("localhost", "127.0.0.1", "::1")
_FOLDER = "SELECT setting FROM pg_settings WHERE name = 'data_directory'"  # hidden from roles that may not see it
_SIZES = """
SELECT pg_database_size(current_database()),
       coalesce((SELECT sum(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                            ELSE pg_current_wal_lsn() END, restart_lsn))
                 FROM pg_replication_slots), 0)::bigint,
       coalesce((SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()), 0)
"""
_SIZE = "SELECT pg_database_size(current_database())"
_SIZE_EVERYWHERE = (
    "SELECT sum(result::bigint) FROM pg_catalog.run_command_on_all_nodes("
    "'SELECT pg_catalog.pg_database_size(current_database())') WHERE success"
)


async def check_disk(exam: Examination) -> AsyncIterator[Finding]:
    """Find out whether the disk with the data folder has little room."""
    folder = exam.options.data_folder or await _local_folder(exam)
    free = _free_bytes(folder) if folder is not None else None
    if free is None or free >= exam.options.limits.disk_free:
        return
    database, wal, temporary = await fetch_row(exam.conn, _SIZES) or (0, 0, 0)
    sentence = (
        f"{format_bytes(free)} are free on the disk with {folder}: the database takes {format_bytes(database)},"
        f" replication slots keep {format_bytes(wal)} of write-ahead log, and {format_bytes(temporary)} of temporary"
        " files were written since its statistics were reset"
    )
    yield Finding("disk_low", sentence, advice="make room, or move the data folder to a larger disk")


async def read_database_size(exam: Examination) -> int:
    """Return how many bytes the database takes, on all servers of a distributed one."""
    return int(await fetch_value(exam.conn, _SIZE_EVERYWHERE if await is_distributed(exam.conn) else _SIZE))


def format_bytes(size: int) -> str:
    """Return a number of bytes in a unit in which it is easily read."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TB"


async def _local_folder(exam: Examination) -> Path | None:
    """Return the data folder of a server on this machine; None if it runs elsewhere, or this role may not see it."""
    info = exam.conn.info
    if not info.host.startswith("/") and info.host not in _HERE and info.hostaddr not in _HERE:
        return None
    folder = await fetch_value(exam.conn, _FOLDER)
    return Path(folder) if folder else None


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
