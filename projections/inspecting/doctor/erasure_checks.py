"""Checks of erasures: whether a ledger is newer than the log, and whether this installation has the erasure key."""

from __future__ import annotations

from collections.abc import AsyncIterator

from eventstore.errors import ArchiveError
from eventstore.postgres.queries import fetch_row
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.erasure_ledger import describe_newer_ledger
from projections.inspecting.finding import Finding

_KEYS = """
SELECT EXISTS (SELECT FROM eventstore.erasures WHERE mac IS NOT NULL),
       EXISTS (SELECT FROM eventstore.erasures WHERE mac IS NOT NULL AND key_check = %b)
"""


async def check_erasures(exam: Examination) -> AsyncIterator[Finding]:
    """Find erased persons who came back with a restore, and a key that is missing or another one."""
    ledger = exam.options.ledger
    try:
        newer = await describe_newer_ledger(exam.conn, ledger)
    except ArchiveError as error:
        advice = "write it again: projections export erasures FILE --force"
        yield Finding("erasure_ledger_unreadable", str(error), advice=advice)
    else:
        if newer is not None:
            sentence, _, command = newer.partition("; run ")
            yield Finding("erasure_ledger_newer", sentence, command)
    key = exam.options.key
    row = await fetch_row(exam.conn, _KEYS, [None if key is None else key.check])
    if row is not None and row[0] and not row[1]:
        what = "no key is set" if key is None else "another key is set"
        yield Finding(
            "erasure_key_missing",
            f"persons were erased with a key, and here {what}: late events would be stored with their numbers",
            advice="set PROJECTIONS_ERASURE_KEY_FILE to the file with that key, for every process",
        )
