"""Checks of erasures: the ledger is as new as the log, its persons are erased, and the erasure key is there."""

from __future__ import annotations

from collections.abc import AsyncIterator

from eventstore.errors import ArchiveError
from eventstore.postgres.queries import fetch_row
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.erasure_ledger import (
    describe_newer_ledger,
    describe_unfinished_erasures,
    is_older_ledger,
)
from projections.inspecting.finding import Finding

_KEYS = """
SELECT EXISTS (SELECT FROM eventstore.erasures WHERE mac IS NOT NULL AND key_check IS DISTINCT FROM %(ours)b),
       EXISTS (SELECT FROM eventstore.erasures WHERE mac IS NOT NULL AND key_check = %(ours)b)
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
        elif await is_older_ledger(exam.conn, ledger):
            command = f"projections export erasures {ledger} --force"
            yield Finding("erasure_ledger_older", f"the ledger {ledger} lacks erasures of this database", command)
    unfinished = await describe_unfinished_erasures(exam.conn)
    if unfinished is not None:
        sentence, _, advice = unfinished.partition("; ")
        yield Finding("erasure_unfinished", sentence, advice=advice)
    key = exam.options.key
    row = await fetch_row(exam.conn, _KEYS, {"ours": None if key is None else key.check})
    has_others, has_ours = row or (False, False)
    if has_others and has_ours:  # nothing mends that if the other key is lost
        yield Finding(
            "erasure_key_other",
            "some persons were erased with another key: late events of theirs would be stored with their numbers",
            advice="use that key, if it is not lost, for every process",
        )
    elif has_others:
        what = "no key is set" if key is None else "another key is set"
        yield Finding(
            "erasure_key_missing",
            f"persons were erased with a key, and here {what}: late events would be stored with their numbers",
            advice="set PROJECTIONS_ERASURE_KEY_FILE to the file with that key, for every process",
        )
