"""Checks that each process that folds has a session that listens for new events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from eventstore.postgres.queries import fetch_column
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

LOOK_AGAIN_SECONDS = 1.0
"""A process that has just started, or whose listener reconnects, has none for a moment."""

_OLD_LISTENER = "projections run listen"
"""The name of a listener in versions that may run beside this one; it doesn't name its process."""

_SESSIONS = (
    "SELECT application_name FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'projections %'"
)
_NAME = re.compile(r"projections (?P<work>run|listen) (?:.* )?(?P<process>\S+:\d+)")


async def check_listeners(exam: Examination) -> AsyncIterator[Finding]:
    """Find processes that fold and don't listen, twice in a row."""
    deaf = await _deaf_processes(exam)
    if deaf:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        deaf &= await _deaf_processes(exam)
    for process in sorted(deaf):
        sentence = f"the process {process} folds, but doesn't listen for new events: it finds them only when it polls"
        advice = "see its log and the server's; it reconnects by itself unless connections are refused"
        yield Finding("listener_dead", sentence, advice=advice)


async def _deaf_processes(exam: Examination) -> set[str]:
    found: dict[str, set[str]] = {"run": set(), "listen": set()}
    names = await fetch_column(exam.conn, _SESSIONS)
    if _OLD_LISTENER in names:
        return set()
    for name in names:
        if (session := _NAME.fullmatch(name)) is not None:
            found[session["work"]].add(session["process"])
    return found["run"] - found["listen"]
