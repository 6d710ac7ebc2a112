"""What the schema promises beyond its revision, and how it is restored where a restore or a person undid it.

Alembic knows which revisions ran, not what became of their work: ``pg_restore --data-only --disable-triggers`` leaves
triggers that are no longer ALWAYS, a restore without privileges lets everybody redecode, and anybody who owns a table
can drop its constraints. The invariants rest on these, so ``migrate`` restores them and ``status`` says when they are
gone.

Definitions aren't repeated here: tables come from the metadata, functions and views from the revisions that made them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import AsyncConnection, sql
from sqlalchemy import CheckConstraint, Connection, Table, UniqueConstraint

from eventstore.postgres.queries import fetch_all, fetch_value
from eventstore.resources import migrations_folder
from projections.migrating.metadata import OUR_SCHEMAS, target_metadata
from projections.projection import READ_MODEL_SCHEMA

_EVENTS = "eventstore.events"
_TRIGGERS = {
    "refuse_change_statement": "BEFORE DELETE OR UPDATE OR TRUNCATE ON eventstore.events FOR EACH STATEMENT",
    "refuse_change_row": "BEFORE DELETE OR UPDATE ON eventstore.events FOR EACH ROW",
}
_TRIGGER_FUNCTION = "eventstore.refuse_change()"
# The revision that last made each, and the name of the statement in its module.
_FUNCTIONS = {
    _TRIGGER_FUNCTION: ("0007", "REFUSE_ALL_BUT_PERMITTED"),
    "eventstore.redecode(jsonb)": ("0007", "REDECODE"),
}
_VIEWS = {
    "eventstore.event_log": ("0006", "NEW_EVENT_LOG"),
    "public.consent_history": ("0007", "CONSENT_HISTORY"),
    "public.poll_results": ("0007", "POLL_RESULTS"),
    "public.read_model_freshness": ("0005", "NEW_FRESHNESS"),
}
PRIVATE_FUNCTIONS = frozenset({"eventstore.redecode(jsonb)"})
"""Functions that not everybody may run: the triggers let through who may."""

_CATALOG = """
SELECT 'relation' AS kind, n.nspname || '.' || c.relname AS object, c.relkind::text AS name,
       c.relpersistence::text AS definition, true AS holds
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT 'not null', n.nspname || '.' || c.relname, a.attname::text, '', a.attnotnull
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT CASE k.contype WHEN 'c' THEN 'check' WHEN 'p' THEN 'primary key' ELSE 'unique' END,
       n.nspname || '.' || c.relname, k.conname::text,
       coalesce((SELECT string_agg(a.attname::text, ', ' ORDER BY key.place)
                 FROM unnest(k.conkey) WITH ORDINALITY AS key (number, place)
                 JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = key.number), ''),
       k.convalidated
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND k.contype IN ('c', 'p', 'u')
UNION ALL
SELECT 'trigger', n.nspname || '.' || c.relname, t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled = 'A'
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY({schemas}) AND NOT t.tgisinternal
UNION ALL
SELECT 'function', n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
       coalesce(p.proconfig::text, '') || CASE WHEN p.prosecdef THEN ' security definer' ELSE '' END, p.prosrc,
       NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))
                   WHERE grantee = 0 AND privilege_type = 'EXECUTE')
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = ANY({schemas})
"""

_SEQUENCES = (
    ("eventstore.quarantine", "eventstore.quarantine_id_seq"),
    ("projections.rebuilds", "projections.rebuilds_id_seq"),
)
# A data-only copy of rows by hand leaves the sequence behind: the next number would be taken already.
_SEQUENCE = (
    "SELECT CASE WHEN has_sequence_privilege({sequence}, 'SELECT')"
    " THEN coalesce((SELECT max(id) FROM {table}) <= pg_sequence_last_value({sequence}::regclass),"
    " NOT EXISTS (SELECT FROM {table})) ELSE true END"
)
_FUNCTION_TEXT = re.compile(r"SET search_path = (?P<path>[^$]*?)\s*AS \$\$(?P<source>.*)\$\$", re.DOTALL)


class Drift(NamedTuple):
    """A promise that doesn't hold.

    Attributes:
        what: what is wrong, as a sentence without its end.
        repair: the statements that restore it, each in a transaction of its own; empty where only a backup has what is
            missing.
        is_new: whether it is the last step of a migration rather than something undone.

    """

    what: str
    repair: tuple[str, ...]
    is_new: bool = False

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do."""
        remedy = "run projections migrate" if self.repair else "restore it from a backup"
        return f"{self.what}; {remedy}"


class _Found(NamedTuple):
    """A row of the catalog query."""

    kind: str
    object: str
    name: str
    definition: str
    holds: bool


_Catalog = dict[tuple[str, str, str], _Found]


async def find_drift(conn: AsyncConnection[Any]) -> list[Drift]:
    """Return which promises don't hold, in the order in which they are to be restored."""
    found = await fetch_all(conn, _catalog_query())
    drifts = list(_find_drift(found))
    for table, sequence in _SEQUENCES:
        if _has_table(found, table):
            holds = bool(await fetch_value(conn, _sequence_query(table, sequence)))
            drifts += _of_sequence(table, sequence, holds=holds)
    return drifts


def find_drift_sync(connection: Connection) -> list[Drift]:
    """Return the same as :func:`find_drift`, for migrations."""
    found = [tuple(row) for row in connection.exec_driver_sql(_catalog_query().as_string())]
    drifts = list(_find_drift(found))
    for table, sequence in _SEQUENCES:
        if _has_table(found, table):
            query = _sequence_query(table, sequence).as_string()
            drifts += _of_sequence(table, sequence, holds=bool(connection.exec_driver_sql(query).scalar()))
    return drifts


def _catalog_query() -> sql.Composed:
    return sql.SQL(_CATALOG).format(schemas=sql.Literal(list(OUR_SCHEMAS)))


def _sequence_query(table: str, sequence: str) -> sql.Composed:
    return sql.SQL(_SEQUENCE).format(table=sql.Identifier(*table.split(".")), sequence=sql.Literal(sequence))


def _has_table(found: Iterable[Sequence[Any]], table: str) -> bool:
    return any(row[0] == "relation" and row[1] == table for row in found)


def _of_sequence(table: str, sequence: str, *, holds: bool) -> list[Drift]:
    if holds:
        return []
    text = sql.SQL("SELECT pg_catalog.setval({}, (SELECT max(id) FROM {}))")
    repair = text.format(sql.Literal(sequence), sql.Identifier(*table.split("."))).as_string()
    return [Drift(f"the numbers that {sequence} gives are taken already in {table}", (repair,))]


def _find_drift(rows: Iterable[Sequence[Any]]) -> Iterator[Drift]:
    found = [_Found(*row) for row in rows]
    relations = {one.object: one for one in found if one.kind == "relation"}
    catalog = {(one.kind, one.object, one.name): one for one in found}
    tables = [table for metadata in target_metadata for table in metadata.tables.values()]
    yield from _of_functions({one.object: one for one in found if one.kind == "function"})
    for table in tables:
        there = relations.get(table.fullname)
        if there is None:
            # A read model's table is made anew by migrate, and its projection says that it is missing.
            if table.schema != READ_MODEL_SCHEMA:
                yield Drift(f"table {table.fullname} is missing", ())
            continue
        if there.definition != "p":
            repair = f"ALTER TABLE {table.fullname} SET LOGGED"
            yield Drift(f"table {table.fullname} is UNLOGGED, so a crash would empty it", (repair,))
        yield from _of_keys(table, found)
        yield from _of_columns(table, catalog)
        yield from _of_checks(table, catalog)
    if _EVENTS in relations:
        yield from _of_triggers(catalog)
    for view, (revision, name) in _VIEWS.items():
        if view not in relations:
            yield Drift(f"view {view} is missing", (_statement(revision, name),))


def _of_functions(found: dict[str, _Found]) -> Iterator[Drift]:
    for function, (revision, name) in _FUNCTIONS.items():
        statement = _statement(revision, name)
        revoke = f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"
        is_private = function in PRIVATE_FUNCTIONS
        there = found.get(function)
        match = _FUNCTION_TEXT.search(statement)
        if match is None:
            raise ValueError(f"the text of {function} can't be read")
        definer = " security definer" if "SECURITY DEFINER" in statement[: match.start("source")] else ""
        as_made = (f'{{"search_path={match["path"]}"}}{definer}', f"{{search_path={match['path']}}}{definer}")
        if there is None or there.definition != match["source"] or there.name not in as_made:
            what = "is missing" if there is None else "isn't as it was made"
            replace = re.sub(r"^\s*CREATE( OR REPLACE)? FUNCTION", "CREATE OR REPLACE FUNCTION", statement)
            yield Drift(f"function {function} {what}", (replace, *([revoke] if is_private else [])))
        elif is_private and not there.holds:
            yield Drift(f"everybody may run function {function}", (revoke,))


def _of_triggers(catalog: _Catalog) -> Iterator[Drift]:
    for name, when in _TRIGGERS.items():
        create = f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION {_TRIGGER_FUNCTION}"
        always = f"ALTER TABLE {_EVENTS} ENABLE ALWAYS TRIGGER {name}"
        there = catalog.get(("trigger", _EVENTS, name))
        what = f"trigger {name} on {_EVENTS}"
        if there is None:
            yield Drift(f"{what} is missing", (create, always))
        elif there.definition != create:
            replace = create.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
            yield Drift(f"{what} isn't as it was made", (replace, always))
        elif not there.holds:
            yield Drift(f"{what} isn't ENABLE ALWAYS, so some sessions can change events", (always,))


def _of_keys(table: Table, found: Iterable[_Found]) -> Iterator[Drift]:
    keys = [("primary key", f"{table.name}_pkey", [column.name for column in table.primary_key.columns])]
    keys += [
        ("unique", str(one.name), [column.name for column in one.columns])
        for one in table.constraints
        if isinstance(one, UniqueConstraint)
    ]
    there = {(one.kind, one.definition) for one in found if one.object == table.fullname}
    for kind, name, columns in keys:
        listed = ", ".join(columns)
        if (kind, listed) not in there:
            repair = f'ALTER TABLE {table.fullname} ADD CONSTRAINT "{name}" {kind.upper()} ({_quoted(columns)})'
            yield Drift(f"table {table.fullname} has lost {kind} ({listed})", (repair,))


def _of_columns(table: Table, catalog: _Catalog) -> Iterator[Drift]:
    for column in table.columns:
        there = catalog.get(("not null", table.fullname, column.name))
        if there is None:
            yield Drift(f"column {table.fullname}.{column.name} is missing", ())
        elif not column.nullable and not there.holds:
            repair = f"ALTER TABLE {table.fullname} ALTER COLUMN {_quoted([column.name])} SET NOT NULL"
            yield Drift(f"column {table.fullname}.{column.name} takes NULL", (repair,))


def _of_checks(table: Table, catalog: _Catalog) -> Iterator[Drift]:
    checks = sorted((str(one.name), one) for one in table.constraints if isinstance(one, CheckConstraint) and one.name)
    for name, check in checks:
        there = catalog.get(("check", table.fullname, name))
        # In two transactions: the first locks the table and looks at no row, the second looks and hardly locks.
        add = f"ALTER TABLE {table.fullname} ADD CONSTRAINT {name} CHECK ({check.sqltext}) NOT VALID"
        validate = f"ALTER TABLE {table.fullname} VALIDATE CONSTRAINT {name}"
        if there is None:
            yield Drift(f"table {table.fullname} has lost CHECK {name}", (add, validate))
        elif not there.holds:
            yield Drift(f"CHECK {name} of {table.fullname} isn't proved for all rows", (validate,), is_new=True)


def _quoted(names: Iterable[str]) -> str:
    return sql.SQL(", ").join(map(sql.Identifier, names)).as_string()


@cache
def _statement(revision: str, name: str) -> str:
    """Return a statement that a revision of ours made something with."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    script = ScriptDirectory.from_config(config).get_revision(revision)
    if script is None:
        raise LookupError(f"revision {revision} is missing")
    return str(getattr(script.module, name)).strip()
