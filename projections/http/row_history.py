"""The history of a person or of a request, for the page: what ``projections explain`` answers, as plain values.

Invariants. One history is computed at a time, because each reads the log; it is given up after ``HISTORY_SECONDS``.
Rows are found by index: by the app and the rest of the key. Nothing of this is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Table, Text, cast, literal, select

from eventstore.errors import storable
from eventstore.postgres.queries import fetch_column
from projections.errors import UsageError
from projections.folding.run_statement import fetch_rows
from projections.http.web_context import WebContext
from projections.inspecting.explain import Explanation, explain
from projections.inspecting.row_folding import RowChange
from projections.projection import Projection
from projections.rebuilding.replay_context import ReplayContext
from projections.settings import load_replay_settings

HISTORY_SECONDS = 60.0
"""How long one history may take."""
MAX_RECIPIENTS = 20
"""How many recipients of a request are offered."""
PERSON, REQUEST = "ppnum", "send_request_id"


@dataclass(frozen=True, slots=True)
class RowQuestion:
    """Which row: a table, an app, and the rest of the primary key."""

    table: str
    app: str
    key: tuple[str, ...]

    @property
    def label(self) -> str:
        """The row for people."""
        return f"{', '.join(self.key)} of app {self.app}, in {self.table}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as the page sends it back."""
        return {"table": self.table, "app": self.app, "key": list(self.key)}


class RowHistories:
    """Answers questions about rows.

    Args:
        context: the database, and the projections of this code.

    """

    def __init__(self, context: WebContext) -> None:
        self._replay = ReplayContext(context.url, context.waits, load_replay_settings())
        self._queries = context.queries
        self._owners = {
            table.name: (projection, table)
            for projection in context.registry.projections.values()
            for table in projection.tables
        }
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the history of a row, and related rows.

        Args:
            question: ``text`` for a person or a request in any app; or ``app`` with ``ppnum`` or ``send_request_id``;
                or ``table``, ``app`` and ``key``.

        Raises:
            UsageError: the question can't be answered; the message says why.
            ProjectionsError: the projection can't be explained now.
            TimeoutError: it took too long.
            psycopg.Error: the database failed, or the connection.

        """
        async with self._queries.session() as conn:
            row, others = await self._find_row(question, conn)
            recipients = await self._find_recipients(conn, row)
        projection, table = self._owners[row.table]
        async with asyncio.timeout(HISTORY_SECONDS), self._one_at_a_time:
            found = await explain(self._replay, projection, table, row.key, row.app)
        links = [_link("Also", f"{one.table}{_in_other_app(one, row)}", one) for one in others]
        links += [_link("Recipients", one.key[-1], one) for one in recipients]
        return {**_describe_history(found), "title": row.label, "links": links}

    async def _find_row(
        self, question: Mapping[str, Any], conn: AsyncConnection[Any]
    ) -> tuple[RowQuestion, list[RowQuestion]]:
        table, app, key = question.get("table"), question.get("app"), question.get("key")
        if isinstance(table, str) and isinstance(app, str) and isinstance(key, list):
            texts = tuple(_checked(one) for one in key)
            if table not in self._owners or len(texts) != len(_rest_of_key(self._owners[table][1])):
                raise UsageError("there is no such read model; open the page again")
            return RowQuestion(table, _checked(app), texts), []
        columns = [(name, question[name]) for name in (PERSON, REQUEST) if name in question]
        text = question.get("text")
        if isinstance(text, str):
            columns = [(name, text.strip()) for name in (PERSON, REQUEST)]
        if not columns:
            raise UsageError("give a phone number or a request id")
        apps = [_checked(app)] if app is not None else await fetch_column(conn, "SELECT app FROM eventstore.cursors")
        candidates = [
            RowQuestion(table.name, one, (_checked(value),))
            for name, value in columns
            for _, table in self._tables_of(name)
            for one in apps
        ]
        rows = [one for one in candidates if await self._exists(conn, one)]
        if not rows:
            raise UsageError(
                "no read model has a row for this phone number or request id; it may not be folded yet, or be written"
                " in another way"
            )
        return rows[0], rows[1:]

    def _tables_of(self, column: str) -> Iterator[tuple[Projection, Table]]:
        """Yield the tables with a row for each value of a column in each app."""
        for projection, table in self._owners.values():
            if _rest_of_key(table) == [column]:
                yield projection, table

    async def _exists(self, conn: AsyncConnection[Any], row: RowQuestion) -> bool:
        table = self._owners[row.table][1]
        same = [table.c[name] == _typed_value(table, name, value) for name, value in _whole_key(table, row).items()]
        return bool(await fetch_rows(conn, select(literal(1).label("found")).select_from(table).where(*same)))

    async def _find_recipients(self, conn: AsyncConnection[Any], row: RowQuestion) -> list[RowQuestion]:
        """Return the rows of a request's recipients, if that is what was asked about."""
        if _rest_of_key(self._owners[row.table][1]) != [REQUEST]:
            return []
        found: list[RowQuestion] = []
        for _, table in self._owners.values():
            if _rest_of_key(table) == [REQUEST, PERSON]:
                of_request = (table.c.app == row.app, table.c[REQUEST] == row.key[0])
                people = select(table.c[PERSON]).where(*of_request).order_by(table.c[PERSON]).limit(MAX_RECIPIENTS)
                rows = await fetch_rows(conn, people)
                found += [RowQuestion(table.name, row.app, (row.key[0], one[PERSON])) for one in rows]
        return found


def _rest_of_key(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns if column.name != "app"]


def _whole_key(table: Table, row: RowQuestion) -> dict[str, str]:
    return {"app": row.app, **dict(zip(_rest_of_key(table), row.key, strict=True))}


def _typed_value(table: Table, name: str, value: str) -> Any:  # noqa: ANN401 - an SQL expression
    return cast(literal(value, Text), table.c[name].type)


def _checked(value: object) -> str:
    if not isinstance(value, str) or storable(value) != value:
        raise UsageError("this can't be a phone number or a request id")
    return value


def _link(group: str, label: str, row: RowQuestion) -> dict[str, Any]:
    return {"group": group, "label": label, "question": row.as_dict()}


def _in_other_app(one: RowQuestion, row: RowQuestion) -> str:
    return "" if one.app == row.app else f" in app {one.app}"


def _describe_history(found: Explanation) -> dict[str, Any]:
    sentences = [f"According to the log up to position {found.position:,}."]
    if found.without_effect:
        noun = "event" if found.without_effect == 1 else "events"
        sentences.append(f"{found.without_effect:,} other {noun} {found.group} did not change the row.")
    sentences += [f"Event {event_id} is skipped." for event_id in found.skipped]
    if found.row is not None and found.decided_by is None:
        undecided = "No event has decided it yet."
        sentences.append(undecided if found.is_decided_by_one else "Rows of this table have no single deciding event.")
    warnings = [] if found.changes else ["No event produces such a row."]
    if not found.equal:
        warnings.append("The row in the table differs from the log; projections verify shows how, rebuild repairs it.")
    return {
        "sentences": sentences,
        "warnings": warnings,
        "events": [_describe_change(change, found) for change in found.changes],
    }


def _describe_change(change: RowChange, found: Explanation) -> dict[str, Any]:
    return {
        "event_id": change.event.event_id,
        "event_type": _shown_type(change),
        "position": change.event.position,
        "occurred_at": change.event.occurred_at,
        "decides": change.event.event_id == found.decided_by,
        "removed": change.after is None,
        "changes": [
            {"name": name, "old": None if change.before is None else _shown(old), "new": _shown(new)}
            for name, (old, new) in change.columns.items()
            if change.after is not None and _is_telling(name, new, change, found)
        ],
    }


def _shown_type(change: RowChange) -> str:
    if change.together == 1:
        return change.event.type_name
    return f"{change.event.type_name}, the last of {change.together:,} events that were folded together"


def _is_telling(name: str, new: object, change: RowChange, found: Explanation) -> bool:
    """Return whether a change says more than which event it was and when."""
    if change.before is None and (name in found.key or new is None):
        return False
    return new not in (change.event.event_id, change.event.occurred_at)


def _shown(value: object) -> str:
    """Return a value of a row for people."""
    if value is None:
        return "none"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
