"""Checks of the quarantine: whether it is full, filling, or not empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

from eventstore.postgres.queries import fetch_all
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding
from projections.inspecting.health import find_app_problems

FILLING = 0.8
"""The share of its room from which a quarantine is filling."""

_LIST = "projections quarantine list"
_USAGE = """
SELECT app, kept_rows, kept_bytes, EXISTS (SELECT FROM eventstore.quarantine AS q WHERE q.app = u.app),
       coalesce((SELECT sum(messages) FROM eventstore.quarantine_counts AS c WHERE c.app = u.app), 0)::bigint
FROM eventstore.quarantine_usage AS u ORDER BY app
"""


async def check_quarantine(exam: Examination) -> AsyncIterator[Finding]:
    """Find messages that can't be events, and quarantines without much room."""
    full = set()
    for app in await exam.apps():
        for problem in find_app_problems([app]):
            if problem.finding.code == "quarantine_full":
                full.add(app.app)
                yield problem.finding
    limits = exam.options.quarantine
    rows_limit, bytes_limit = limits.max_rows - limits.sample_rows, limits.max_bytes - limits.sample_bytes
    for name, rows, size, is_kept, messages in await fetch_all(exam.conn, _USAGE):
        if not is_kept or name in full:
            continue
        used = max(rows / max(rows_limit, 1), size / max(bytes_limit, 1))
        if used >= FILLING:
            sentence = f"the quarantine of app {name!r} is {used:.0%} full ({rows:,} messages, {size / 2**20:,.1f} MiB)"
            yield Finding("quarantine_filling", sentence, _LIST)
        else:
            sentence = f"app {name!r} has quarantined messages: {messages:,} were received, and {rows:,} are kept"
            yield Finding("quarantine_not_empty", sentence, _LIST)
