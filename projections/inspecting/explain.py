"""Tells by which events a row of a read model came about: they are folded one by one, and the row is watched.

Invariants. The fold is the one that workers run, over windows of one position each, in order of event_id, into
temporary tables. Every window is a transaction of its own, so no snapshot outlives one; the log is searched in
stretches, for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection, DataError
from sqlalchemy import MetaData, Table, Text, cast, func, literal, select

from eventstore.contracts.event_types import EventType
from eventstore.errors import describe
from eventstore.postgres.connection import connect
from eventstore.postgres.queries import fetch_all
from eventstore.postgres.session_settings import ONE_SNAPSHOT, SEARCHING
from eventstore.redaction.redact import redact
from eventstore.schema import events
from eventstore.waits import Waits
from projections.errors import ProjectionsError, UsageError
from projections.folding.python_projection import PythonProjection
from projections.folding.run_statement import fetch_rows
from projections.folding.table_copies import plain_copy
from projections.folding.text_dates import load_odd_dates_as_text
from projections.folding.window_fold import build_fold
from projections.projection import READ_MODEL_SCHEMA, Projection, Window
from projections.rebuilding.difference import Sample
from projections.rebuilding.replay import Progress, checkpoint_of, refuse_ahead_of_log
from projections.rebuilding.shadow import make_table

STRETCH = 200_000
"""Positions that are searched in one statement."""
BEHIND = 5
_TEMPORARY = "pg_temp"

Row = Mapping[str, Any]


class Told(NamedTuple):
    """An event, as far as people are told of it."""

    position: int
    event_id: str
    event_type: int
    occurred_at: datetime
    received_at: datetime

    @property
    def type_name(self) -> str:
        """The type's name; UNKNOWN_n for a number that no read model knows."""
        return EventType(self.event_type).name if self.event_type in set(EventType) else f"UNKNOWN_{self.event_type}"


@dataclass(frozen=True, slots=True)
class Change:
    """What an event made of the row: by column, the value before and after. Without a row each value is None."""

    event: Told
    before: Row | None
    after: Row | None

    @property
    def columns(self) -> dict[str, tuple[Any, Any]]:
        """The columns that changed."""
        old, new = self.before or {}, self.after or {}
        changed = (name for name in (new or old) if not _same(old.get(name), new.get(name)))
        return {name: (old.get(name), new.get(name)) for name in changed}


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a row came about.

    Attributes:
        table: the read model's.
        key: the row's.
        position: the projection's checkpoint; events behind it are not folded yet.
        changes: what each event that changed the row made of it, in order of event_id.
        silent: how many events of the row's partition changed nothing in it.
        skipped: the event_ids among them that the projection passes over.
        decided_by: the event that decides the row; None where no single one does, or none has yet.
        is_decided_by_one: whether in this table a single event decides a row.
        row: what the log says; None when there is to be no row.
        there: what the table has; None for no row.

    """

    table: str
    key: Row
    position: int
    changes: tuple[Change, ...]
    silent: int
    skipped: tuple[str, ...]
    decided_by: str | None
    is_decided_by_one: bool
    row: Row | None
    there: Row | None

    @property
    def equal(self) -> bool:
        """Whether the table has what the log says."""
        return _same(self.row, self.there)


def _same(one: object, other: object) -> bool:
    """Compare as ``verify`` does, by what is written: not a number is itself, and 1.5 is not 1.50."""
    return repr(one) == repr(other)


def table_of(projections: Mapping[str, Projection], name: str) -> tuple[Projection, Table]:
    """Find a read model's table, and the projection that owns it.

    Raises:
        UsageError: there is none of that name; the message names those there are.

    """
    tables = {table.name: (projection, table) for projection in projections.values() for table in projection.tables}
    if name not in tables:
        raise UsageError(f"there is no read model {redact(name)!r}: there are {', '.join(sorted(tables))}")
    return tables[name]


async def explain(
    url: str,
    projection: Projection,
    table: Table,
    key: Sequence[str],
    app: str | None,
    *,
    waits: Waits,
    progress: Progress,
) -> Explanation:
    """Tell by which events a row came about.

    Args:
        url: the database.
        projection: the one that owns the table.
        table: the read model.
        key: the primary key's values in order, with or without the app.
        app: the app, where ``key`` leaves it out; None for the only one that has such a row.
        waits: of the event store.
        progress: is told how the search of the log, and the fold of what it found, go on.

    Raises:
        UsageError: the key is not one of the table, or several apps have such a row.
        ProjectionsError: the projection has not run yet, or its rows are of another version.
        psycopg.Error: the database failed, or the connection.

    """
    async with await connect(url, name="projections explain", waits=waits, settings=SEARCHING) as conn:
        load_odd_dates_as_text(conn)
        try:
            found = await _whole_key(conn, table, key, app)
        except DataError as error:
            raise UsageError(f"that can't be a key of {table.name}: {describe(error)}") from error
        async with conn.transaction():  # the row and the checkpoint of one moment, for workers move both
            await conn.execute(ONE_SNAPSHOT)
            at = await checkpoint_of(conn, projection)
            refuse_ahead_of_log(projection, at)
            if at.version != projection.version:
                raise ProjectionsError(
                    f"the rows of {projection.name} are of version {at.version}, this code is version"
                    f" {projection.version}: run projections rebuild {projection.name}"
                )
            there = await _row(conn, table, found)
        partition = {name: found[name] for name in projection.partition_by}
        progress.phase("searching", target=at.position)
        log = await _events_of(conn, projection, partition, at.position, progress)
        copies = {one.name: plain_copy(one, MetaData(), _TEMPORARY) for one in projection.tables}
        for copy in copies.values():
            await make_table(conn, copy, logged=True)
        fold = build_fold(projection, {READ_MODEL_SCHEMA: _TEMPORARY})
        changes: list[Change] = []
        row: Row | None = None
        progress.phase("folding", target=len(log))
        for number, event in enumerate(sorted(log, key=lambda one: one.event_id), 1):
            async with conn.transaction():
                await fold.run(conn, event.position - 1, event.position, at.skipped)
            now = await _row(conn, copies[table.name], found)
            if not _same(now, row):
                changes.append(Change(event, row, now))
            row = now
            progress.at(number)
        skipped = tuple(event.event_id for event in log if event.event_id in set(at.skipped))
        column = deciding_column(projection, table)
        return Explanation(
            table=table.name,
            key=found,
            position=at.position,
            changes=tuple(changes),
            silent=len(log) - len(changes),
            skipped=skipped,
            decided_by=row.get(column) if row and column else None,
            is_decided_by_one=column is not None,
            row=row,
            there=there,
        )


def deciding_column(projection: Projection, table: Table) -> str | None:
    """Return the column that names the event that decides a row; None where no single one does."""
    if isinstance(projection, PythonProjection):
        return "event_id"
    return projection.decided_by.get(table.name)


async def events_behind(
    url: str, projection: Projection, samples: Sequence[Sample], up_to: int, *, waits: Waits, progress: Progress
) -> list[list[str]]:
    """Return, for each row of a comparison, the last events behind it as lines.

    They are those of the row's partition that also agree with the rest of its key, where events have such columns.
    """
    lines: list[list[str]] = []
    async with await connect(url, name="projections verify", waits=waits, settings=SEARCHING) as conn:
        for number, sample in enumerate(samples, 1):
            progress.phase(f"searching what is behind row {number} of {len(samples)}, in", target=up_to)
            found = await _events_of(conn, projection, sample.key, up_to, progress)
            found.sort(key=lambda one: one.event_id)
            said = [f"event {one.event_id} {one.type_name} at position {one.position:,}" for one in found[-BEHIND:]]
            if len(found) > BEHIND:
                said.insert(0, f"… and {len(found) - BEHIND:,} events before")
            lines.append(said or ["no event is behind it"])
    return lines


async def _events_of(
    conn: AsyncConnection[Any], projection: Projection, key: Row, up_to: int, progress: Progress
) -> list[Told]:
    """Return the handled events that agree with a key, as far as events have its columns, up to a position."""
    e = Window(projection.handles).events
    same = [
        # Where an event states nothing, a key has the empty text.
        (e.c[name] if name in projection.partition_by else func.coalesce(e.c[name], "")) == literal(value, Text)
        for name, value in key.items()
        if name in events.c and isinstance(events.c[name].type, Text)
    ]
    statement = select(*(e.c[name] for name in Told._fields)).where(*same).order_by(e.c.position)
    found: list[Told] = []
    for lo in range(0, up_to, STRETCH):
        hi = min(lo + STRETCH, up_to)
        found += [Told(**row) for row in await fetch_rows(conn, statement, lo=lo, hi=hi, skipped=[])]
        progress.at(hi)
    return found


async def _whole_key(conn: AsyncConnection[Any], table: Table, given: Sequence[str], app: str | None) -> dict[str, Any]:
    names = [column.name for column in table.primary_key.columns]
    without_app = [name for name in names if name != "app"]
    if len(given) == len(names) and app is None:
        return await _typed(conn, table, dict(zip(names, given, strict=True)))
    if len(given) != len(without_app) or without_app == names:
        raise UsageError(
            f"a row of {table.name} is named by {', '.join(without_app)}: give these, and --app if need be"
        )
    rest = dict(zip(without_app, given, strict=True))
    if app is not None:
        return await _typed(conn, table, {"app": app, **rest})
    same = [table.c[name] == cast(literal(value, Text), table.c[name].type) for name, value in rest.items()]
    having = select(table.c.app).where(*same).distinct().order_by(table.c.app)
    apps, said = [row["app"] for row in await fetch_rows(conn, having)], "several have it"
    if not apps:  # no row, as it may have to be; what follows says why
        rows = await fetch_all(conn, "SELECT app FROM eventstore.cursors ORDER BY app")
        apps, said = [row[0] for row in rows], "none has it, and these are followed"
    if len(apps) != 1:
        named = f"{said} ({', '.join(apps)})" if apps else "none has it, and none is followed"
        raise UsageError(f"which app's row of {table.name}? {named}: say --app")
    return await _typed(conn, table, {"app": apps[0], **rest})


async def _typed(conn: AsyncConnection[Any], table: Table, key: Mapping[str, str]) -> dict[str, Any]:
    """Return a key with the values as the table's columns have them."""
    ordered = [column.name for column in table.primary_key.columns]
    columns = [cast(literal(key[name], Text), table.c[name].type).label(name) for name in ordered]
    (row,) = await fetch_rows(conn, select(*columns))
    return row


async def _row(conn: AsyncConnection[Any], table: Table, key: Row) -> dict[str, Any] | None:
    same = [table.c[name] == literal(value, table.c[name].type) for name, value in key.items()]
    rows = await fetch_rows(conn, select(table).where(*same))
    return rows[0] if rows else None
