"""Reads the plans of a fold from Postgres, and finds the tables that a statement would read from end to end.

Invariants. No statement is run: Postgres only plans it, on a session with the settings of workers. Each statement is
planned for the newest event, for a window of many events, and in the form that a session keeps for any window, since
workers use all of them. The window itself doesn't count, however Postgres reads it. An index that is searched by
``app`` alone narrows nothing down, since most installations have one app, unless it could be searched by more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, errors, sql
from sqlalchemy import Table

from eventstore.distributed_log import is_distributed
from eventstore.postgres.queries import fetch_row
from eventstore.schema import SCHEMA as EVENTSTORE_SCHEMA
from eventstore.schema import events
from projections.errors import InvalidProjection, describe_user_code_error
from projections.folding.python_projection import PythonProjection
from projections.folding.sql_text import compile_fold_statement
from projections.projection import Projection, Window

ONE, MANY, ANY = "one event", "many events", "any window"
"""The windows for which a statement is planned."""

READS_EVENTS = "reads the events for handle"
"""What the only statement of a fold in Python does, besides those that write its rows by their keys."""

_PARAMETER = re.compile(r"\$(\d+)")
_CHANGES = re.compile(
    r'\s*(?P<kind>INSERT|UPDATE|DELETE)\s+(?:INTO\s+|FROM\s+)?(?:ONLY\s+)?(?:(?:\w+|"[^"]+")\.)?(?P<table>\w+|"[^"]+")',
    re.IGNORECASE,
)
_BY_INDEX = ("Index Scan", "Index Only Scan", "Bitmap Index Scan")
_LOG, _POSITION, _APP = f"{EVENTSTORE_SCHEMA}.{events.name}", "position", "app"


@dataclass(frozen=True, slots=True)
class WholeScan:
    """A table that a statement reads from end to end, or all of an app's rows in it.

    Attributes:
        table: the table, with its schema.
        of_app: whether only the rows of an app are read; there may be one app.
        windows: for which windows Postgres plans that.
        condition: what the rows are then searched for; None if all are used.

    """

    table: str
    of_app: bool
    windows: tuple[str, ...]
    condition: str | None


@dataclass(frozen=True, slots=True)
class StatementPlan:
    """How Postgres would run one statement of a fold.

    Attributes:
        number: its number in the fold, from 1.
        what: what it does, such as ``Insert on daily_costs``; of a fold in Python, that it reads the events.
        costs: the planner's estimate for each window.
        scans: the tables that it reads from end to end.
        is_distributed: whether other servers run it, so that the plan doesn't show what they read.

    """

    number: int
    what: str
    costs: Mapping[str, float]
    scans: tuple[WholeScan, ...]
    is_distributed: bool = False


async def read_fold_plans(
    conn: AsyncConnection[Any], projection: Projection, *, head: int, many: int
) -> list[StatementPlan]:
    """Return the plan of each statement of a fold.

    Args:
        conn: a session with the settings of workers, in autocommit.
        projection: its tables exist.
        head: the head of the log; 0 while it is empty.
        many: how many positions a window of many events has.

    Raises:
        InvalidProjection: Postgres refuses a statement: a name is unknown, or types don't fit.
        psycopg.Error: this role may not run a statement, or the database failed.

    """
    values = {
        ONE: {"lo": max(head - 1, 0), "hi": max(head, 1), "skipped": []},
        MANY: {"lo": max(head - many, 0), "hi": max(head, many), "skipped": []},
    }
    # The plan for any window can't be had of a distributed log, and plans don't show what its other servers read.
    distributed = await is_distributed(conn)
    windows = [*values.items(), *([] if distributed else [(ANY, values[ONE])])]
    plans = []
    for number, statement in enumerate(projection.fold(Window(projection.handles)), 1):
        text, names = compile_fold_statement(statement)
        found: dict[str, dict[str, Any]] = {}
        for window, given in windows:
            arguments = [sql.Literal(given[name]) for name in names]
            name = f"projections_check_{number}_{len(found)}"
            try:
                found[window] = (
                    await _explain_distributed(conn, text, arguments)
                    if distributed
                    else await _explain(conn, name, text.encode(), arguments, generic=window is ANY)
                )
            except errors.InsufficientPrivilege:
                raise
            except (psycopg.ProgrammingError, psycopg.DataError) as error:
                why = describe_user_code_error(error)
                raise InvalidProjection(
                    f"projection {projection.name!r}: Postgres refuses statement {number} of its fold: {why}"
                ) from error
        plans.append(
            StatementPlan(
                number,
                READS_EVENTS if isinstance(projection, PythonProjection) else _what(found[ONE], text),
                {window: plan["Total Cost"] for window, plan in found.items()},
                () if distributed else tuple(_whole_scans(found, projection)),
                is_distributed=distributed,
            )
        )
    return plans


async def _explain(
    conn: AsyncConnection[Any], name: str, statement: bytes, arguments: Sequence[sql.Literal], *, generic: bool
) -> dict[str, Any]:
    """Return the plan of a statement, which is prepared under a name that the session doesn't have yet."""
    mode = b"force_generic_plan" if generic else b"force_custom_plan"
    prepare = sql.SQL("PREPARE {} AS ").format(sql.Identifier(name)).as_bytes() + statement
    given = sql.SQL(" ({})").format(sql.SQL(", ").join(arguments)) if arguments else sql.SQL("")
    explain = sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE {}{}").format(sql.Identifier(name), given)
    async with conn.transaction():
        await conn.execute(b"SET LOCAL plan_cache_mode = " + mode)
        async with AsyncRawCursor(conn) as cursor:
            await cursor.execute(prepare)
        row = await fetch_row(conn, explain)
    plan: dict[str, Any] = row[0][0]["Plan"] if row else {}
    return plan


async def _explain_distributed(
    conn: AsyncConnection[Any], statement: str, arguments: Sequence[sql.Literal]
) -> dict[str, Any]:
    """Return the plan of a statement with its arguments as literals: Citus explains none with parameters."""
    text = _PARAMETER.sub(lambda match: arguments[int(match[1]) - 1].as_string(), statement)
    async with AsyncRawCursor(conn) as cursor:
        row = await fetch_row(cursor, b"EXPLAIN (VERBOSE, FORMAT JSON) " + text.encode())
    plan: dict[str, Any] = row[0][0]["Plan"] if row else {}
    return plan


def _what(plan: Mapping[str, Any], statement: str) -> str:
    """Return what a statement does, and to which table."""
    if plan["Node Type"] == "ModifyTable":
        return f"{plan['Operation']} on {plan['Relation Name']}"
    if (changes := _CHANGES.match(statement)) is not None:  # the plan is one of Citus, which doesn't say it
        table = changes["table"].strip('"')
        return f"{changes['kind'].capitalize()} on {table}"
    return f"Select on {plan['Relation Name']}" if "Relation Name" in plan else "Select"


def _whole_scans(plans: Mapping[str, Mapping[str, Any]], projection: Projection) -> Iterator[WholeScan]:
    """Yield each table that some of a statement's plans read from end to end, once."""
    tables = {f"{table.schema}.{table.name}": table for table in projection.tables}
    found: dict[tuple[str, bool], dict[str, str | None]] = {}
    for window, plan in plans.items():
        for read in _reads(plan, None):
            of_app = read.columns == {_APP} and read.table in tables and not _may_narrow(tables[read.table], plan, read)
            is_whole = not read.is_of_window if read.table == _LOG else not read.columns
            if of_app or is_whole:
                found.setdefault((read.table, of_app), {}).setdefault(window, read.condition)
    for (table, of_app), windows in found.items():
        yield WholeScan(table, of_app, tuple(windows), next((one for one in windows.values() if one), None))


def _may_narrow(table: Table, plan: Mapping[str, Any], read: _Read) -> bool:
    """Return whether an index has more of what a plan looks for than the app; for few rows, Postgres may not use it."""
    looked_for = {column for text in _conditions(plan) for column in _columns_of(read.alias, text)}
    indexes = [table.primary_key.columns.keys(), *([column.name for column in one.columns] for one in table.indexes)]
    for columns in indexes:
        if columns == [_APP] or next((column in looked_for for column in columns if column != _APP), False):
            return True
    return False


def _conditions(node: Mapping[str, Any]) -> Iterator[str]:
    for name, value in node.items():
        if name.endswith(("Cond", "Filter")) and isinstance(value, str):
            yield value
    for part in node.get("Plans", ()):
        yield from _conditions(part)


def _columns_of(alias: str, text: str) -> list[str]:
    """Return the columns of a table in a condition, by the table's alias."""
    name = re.escape(alias)
    return [found.strip('"') for found in re.findall(rf'(?:"{name}"|(?<![\w."]){name})\.(\w+|"[^"]+")', text)]


class _Read(NamedTuple):
    """A part of a plan that reads a table.

    Attributes:
        table: the table, with its schema.
        alias: its name in the statement.
        columns: the columns by which an index is searched; none if all of it is read.
        condition: what the rows are then searched for.
        is_of_window: whether it reads only the events of some positions, in whatever way.

    """

    table: str
    alias: str
    columns: frozenset[str]
    condition: str | None
    is_of_window: bool


def _reads(node: Mapping[str, Any], parent: Mapping[str, Any] | None) -> Iterator[_Read]:
    kind = node["Node Type"]
    of = node if "Relation Name" in node else parent or {}
    if kind == "Seq Scan" or kind in _BY_INDEX:
        alias = str(of.get("Alias"))
        condition = node.get("Filter") or of.get("Filter") or of.get("Recheck Cond")
        columns = frozenset(_columns_of(alias, node.get("Index Cond") or ""))
        by_position = any(_POSITION in _columns_of(alias, text) for text in _conditions(of))
        yield _Read(f"{of.get('Schema')}.{of.get('Relation Name')}", alias, columns, condition, by_position)
    for part in node.get("Plans", ()):
        yield from _reads(part, of)
