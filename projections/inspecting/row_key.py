"""Finds the table and the row that a user asks about: the projection, the whole primary key, the row itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Table, Text, cast, literal, select

from eventstore.postgres.queries import fetch_column
from eventstore.redaction.redact import redact
from projections.errors import UsageError
from projections.folding.python_projection import PythonProjection
from projections.folding.run_statement import fetch_rows
from projections.folding.view_text import compose_view_query
from projections.projection import Projection
from projections.read_models.common_columns import VIEW_TABLES

Row = Mapping[str, Any]
_WORD = re.compile(r"\w+")


def find_table(projections: Mapping[str, Projection], name: str) -> tuple[Projection, Table]:
    """Find a read model's table, and the projection that owns it.

    Raises:
        UsageError: no table has that name; the message says what it is instead, or lists the names.

    """
    tables = {table.name: (projection, table) for projection in projections.values() for table in projection.tables}
    if name not in tables:
        _refuse_view(projections, tables, name)
        raise UsageError(f"no read model is named {redact(name)!r}; the names are {', '.join(sorted(tables))}")
    return tables[name]


def _refuse_view(projections: Mapping[str, Projection], tables: Iterable[str], name: str) -> None:
    views = {view.name: view for projection in projections.values() for view in projection.views}
    reads = list(VIEW_TABLES.get(name, ()))
    if name in views:
        words = set(_WORD.findall(compose_view_query(views[name])))
        reads = sorted(words.intersection([*tables, *views, *VIEW_TABLES]) - {name})
    elif name not in VIEW_TABLES:
        return
    of = f" of {', '.join(reads)}" if reads else ""
    explained = [one for one in reads if one in tables]
    advice = f"explain a row of {' or '.join(explained)}" if explained else f"the names are {', '.join(sorted(tables))}"
    raise UsageError(f"{name} is a view{of}, not a read model; {advice}")


def deciding_column(projection: Projection, table: Table) -> str | None:
    """Return the column that names the event that decides a row; None where no single event does."""
    if isinstance(projection, PythonProjection):
        return "event_id"
    return projection.decided_by.get(table.name)


async def complete_key(
    conn: AsyncConnection[Any], table: Table, given: Sequence[str], app: str | None
) -> dict[str, Any]:
    """Return the whole primary key of a row, with values of the columns' types.

    Args:
        conn: a connection.
        table: the row's table.
        given: the key's values in order, with or without the app.
        app: the app, if ``given`` leaves it out; None for the only app that has such a row, or else the only one that
            is followed.

    Raises:
        UsageError: these are not the key's values, or more than one app could be meant.
        psycopg.DataError: a value is not of its column's type.

    """
    names = [column.name for column in table.primary_key.columns]
    without_app = [name for name in names if name != "app"]
    if len(given) == len(names) and app is None:
        return await _typed(conn, table, dict(zip(names, given, strict=True)))
    if len(given) != len(without_app) or without_app == names:
        raise UsageError(
            f"the key of a row of {table.name} is {', '.join(without_app)}; give these values, and --app if needed"
        )
    rest = dict(zip(without_app, given, strict=True))
    return await _typed(conn, table, {"app": app if app is not None else await _only_app(conn, table, rest), **rest})


async def _only_app(conn: AsyncConnection[Any], table: Table, key: Mapping[str, str]) -> str:
    same = [table.c[name] == cast(literal(value, Text), table.c[name].type) for name, value in key.items()]
    with_row = select(table.c.app).where(*same).distinct().order_by(table.c.app)
    apps = [row["app"] for row in await fetch_rows(conn, with_row)]
    if len(apps) > 1:
        raise UsageError(f"several apps have this key in {table.name} ({', '.join(apps)}); choose one with --app")
    if not apps:  # there is no row; the events of the only app show why
        apps = await fetch_column(conn, "SELECT app FROM eventstore.cursors ORDER BY app")
        if len(apps) != 1:
            followed = f"followed: {', '.join(apps)}" if apps else "none is followed"
            raise UsageError(f"no row with this key in {table.name}; choose an app with --app ({followed})")
    return str(apps[0])


async def _typed(conn: AsyncConnection[Any], table: Table, key: Mapping[str, str]) -> dict[str, Any]:
    """Return a key with values of the table's column types."""
    ordered = [column.name for column in table.primary_key.columns]
    columns = [cast(literal(key[name], Text), table.c[name].type).label(name) for name in ordered]
    (row,) = await fetch_rows(conn, select(*columns))
    return row


async def read_row(conn: AsyncConnection[Any], table: Table, key: Row) -> dict[str, Any] | None:
    """Return the row with a key; None if there is none."""
    same = [table.c[name] == literal(value, table.c[name].type) for name, value in key.items()]
    rows = await fetch_rows(conn, select(table).where(*same))
    return rows[0] if rows else None
