"""Turns readings into what open pages receive, as server-sent events.

Invariants. The page must not delay folds, which run in the same event loop: between two parts of a reading other tasks
run. What a reading looks like on the page is built once, whatever the number of open pages, and only while a
page is open. A page that opens receives the history of its charts first, then a reading every second until it goes away
or the server stops; and the long lists (log lines, last events) when they change. While the database is unavailable,
the last readings are sent again, marked as such: a page must never show old numbers as current ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import psycopg

from eventstore.errors import describe
from projections.http.page_extras import PageExtras, read_extras
from projections.http.page_memory import PageMemory
from projections.http.page_reading import LOG_LINES, describe_log, describe_parts, describe_process, make_safe
from projections.http.status_source import REFRESH_SECONDS, Reading
from projections.http.verdict import ShownProblem, Verdict, judge, judge_outage
from projections.http.web_context import WebContext
from projections.inspecting.live_status import LiveStatus
from projections.inspecting.status import Status
from projections.migrating.schema_drift import find_drift
from projections.recent_log import LogLine, recent_log

DRIFT_SECONDS = 30.0
"""How often it is checked, while a page is open, whether the schema was damaged."""
_NO_PARTS: dict[str, Any] = dict.fromkeys(("head", "append_rate", "projections", "apps", "consumers", "rebuilds"))


class PageFeed:
    """What all open pages receive.

    Args:
        context: the readers of the database, and what this process runs.

    """

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._process = describe_process()
        self._memory = PageMemory()
        self._parts: dict[str, Any] | None = None
        self._events: Sequence[Mapping[str, Any]] = ()
        self._damage: list[str] = []
        self._damage_read_at: float | None = None
        self._extras_error: str | None = None
        self._built = 0
        self._text = ""
        self._lists_key: object = None
        self._lists_text = ""
        self._lock = asyncio.Lock()

    async def messages(self) -> AsyncIterator[str]:
        """Yield the history and then every reading, as server-sent events, until the server stops."""
        sent, sent_lists = None, ""
        async for reading in self._context.status.changes():
            text = await self._build(reading)
            if sent is None:
                yield _event("history", make_safe(self._memory.history()))
            if reading.number != sent:
                yield text
            if self._lists_text != sent_lists:
                yield self._lists_text
            sent, sent_lists = reading.number, self._lists_text

    async def _build(self, reading: Reading) -> str:
        async with self._lock:
            if reading.number > self._built:
                self._text = _event("reading", await self._describe(reading))
                self._build_lists()
                self._built = reading.number
            return self._text

    async def _describe(self, reading: Reading) -> dict[str, Any]:
        status = reading.status
        now = datetime.now(UTC)
        if status is None:
            verdict = judge_outage(reading.error or "", reading.unavailable_for, seen_before=self._parts is not None)
        else:
            now = status.now
            extras = await self._read_extras(status)
            await asyncio.sleep(0)
            self._memory.remember(status, extras.new_by_app)
            self._parts = describe_parts(status, extras, self._memory, self._context.parts.followers)
            self._events = extras.events
            await asyncio.sleep(0)
            verdict = self._judge(status)
        since = None if reading.unavailable_for is None else now - timedelta(seconds=reading.unavailable_for)
        shown = {
            "at": now,
            "interval": REFRESH_SECONDS,
            "source": "run" if self._runs_something else "dashboard",
            **self._process,
            "personal_data": self._context.options.personal_data,
            "database_unavailable": None if status is not None else {"since": since, "error": reading.error},
            "verdict": {
                "level": verdict.level,
                "sentence": verdict.sentence,
                "detail": verdict.detail,
                "problems": [{"sentence": one.sentence, **one.mending._asdict()} for one in verdict.problems],
            },
            **(self._parts or _NO_PARTS),
        }
        safe: dict[str, Any] = {}
        for name, part in shown.items():
            await asyncio.sleep(0)
            safe[name] = make_safe(part)
        return safe

    @property
    def _runs_something(self) -> bool:
        return bool(self._context.parts.workers or self._context.parts.followers)

    def _judge(self, status: LiveStatus) -> Verdict:
        followed_here = [follower.app for follower in self._context.parts.followers]
        plain = Status(status.head, 0, 0, status.apps, status.projections)
        verdict = judge(plain, followed_here, self._damage)
        if self._extras_error is None:
            return verdict
        sentence = f"A part of this page can't be read: {self._extras_error}"
        return Verdict(verdict.level, verdict.sentence, verdict.detail, (*verdict.problems, ShownProblem(sentence)))

    async def _read_extras(self, status: LiveStatus) -> PageExtras:
        """Read what only the page shows; if that fails, the page says so, and shows the rest."""
        personal_data = self._context.options.personal_data
        try:
            async with self._context.queries.session() as conn:
                if self._damage_read_at is None or monotonic() - self._damage_read_at > DRIFT_SECONDS:
                    self._damage = [drift.sentence for drift in await find_drift(conn)]
                    self._damage_read_at = monotonic()
                extras = await read_extras(
                    conn, head_before=self._memory.head, head=status.head, personal_data=personal_data
                )
        except (psycopg.Error, OSError) as error:
            self._extras_error = "no answer in time" if isinstance(error, TimeoutError) else describe(error)
            return PageExtras()
        self._extras_error = None
        return extras

    def _build_lists(self) -> None:
        """Build the long lists again, if they have changed."""
        lines = recent_log.lines(LOG_LINES) if self._runs_something else self._memory.changes()[:LOG_LINES]
        key = (lines[0].number if lines else 0, self._events[0]["position"] if self._events else 0)
        if key != self._lists_key:
            lists = {"at": datetime.now(UTC), "log": self._describe_log(lines), "recent_events": list(self._events)}
            self._lists_text, self._lists_key = _event("lists", make_safe(lists)), key

    def _describe_log(self, lines: Sequence[LogLine]) -> dict[str, Any]:
        if self._runs_something:
            return describe_log(lines, "" if lines else "Nothing was logged yet.")
        note = (
            "This process follows and folds nothing, so it has no log of its own. These are the changes that it saw"
            " while a page was open."
        )
        return describe_log(lines, note)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
