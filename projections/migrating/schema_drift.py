"""Finds where a database's schema differs from what its revision made, and how to repair it.

Alembic knows which revisions ran, not whether their objects still exist unchanged. After ``pg_restore --data-only
--disable-triggers`` triggers are no longer ALWAYS, a restore without privileges lets everybody redecode, and the owner
of a table can drop its constraints. Our guarantees depend on all of these, so ``migrate`` repairs them, and ``status``
reports them.

Definitions aren't repeated here: tables come from the metadata, functions and views from the revisions that made them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from psycopg import AsyncConnection, sql
from sqlalchemy import CheckConstraint, Connection, Table, UniqueConstraint

from eventstore.partitions import FIRST_PARTITION_CHECK
from projections.migrating.distributed_views import for_distributed_log
from projections.migrating.metadata import target_metadata
from projections.migrating.revision_files import read_text
from projections.migrating.schema_catalog import CatalogEntry, read_catalog, read_catalog_sync
from projections.projection import READ_MODEL_SCHEMA

_EVENTS = "eventstore.events"
_REFUSE_CHANGE = "eventstore.refuse_change()"
_TIMES_OF_POSITIONS = "eventstore.times_of_positions(bigint[])"
_ERASE_EVENTS = "eventstore.erase_events(bigint[], text[], bytea[])"
EVENT_TRIGGERS = {
    "refuse_change_statement": (
        "CREATE TRIGGER refuse_change_statement BEFORE DELETE OR UPDATE OR TRUNCATE ON eventstore.events"
        " FOR EACH STATEMENT EXECUTE FUNCTION eventstore.refuse_change()"
    ),
    "refuse_change_row": (
        "CREATE TRIGGER refuse_change_row BEFORE DELETE OR UPDATE ON eventstore.events"
        " FOR EACH ROW EXECUTE FUNCTION eventstore.refuse_change()"
    ),
}
"""The triggers of the event table, by name, as pg_get_triggerdef writes them."""
# Of a partitioned log.
_KEEP_EVENT_IDS = (
    "CREATE TRIGGER keep_event_ids AFTER INSERT ON eventstore.events"
    " FOR EACH STATEMENT EXECUTE FUNCTION eventstore.keep_event_ids()"
)
_UNFINISHED = (
    "the log is being partitioned, or that was interrupted: run projections migrate --partition-events again to go on,"
    " or projections migrate to keep one table"
)
# The revision that last made each, and the name of the statement in its module.
_FUNCTIONS = {
    _REFUSE_CHANGE: ("0028", "REFUSE_ALL_BUT_PERMITTED"),
    "eventstore.redecode(jsonb)": ("0028", "REDECODE"),
    _ERASE_EVENTS: ("0028", "ERASE_EVENTS"),
    "eventstore.keep_event_ids()": ("0031", "KEEP_EVENT_IDS"),
    _TIMES_OF_POSITIONS: ("0030", "TIMES_OF_POSITIONS"),
    "eventstore.make_partition(bigint)": ("0031", "MAKE_PARTITION"),
    "eventstore.make_partitions(bigint)": ("0024", "MAKE_PARTITIONS"),
    "eventstore.abandon_partitioning()": ("0024", "ABANDON_PARTITIONING"),
    "projections.drop_shadow_tables(text[])": ("0025", "DROP_SHADOW_TABLES"),
}
_VIEWS = {
    "eventstore.event_log": ("0013", "NEW_EVENT_LOG"),
    "eventstore.event_positions": ("0024", "IDS_OF_TABLE"),
    "eventstore.head": ("0027", "HEAD"),
    "public.consent_history": ("0023", "CONSENT_HISTORY"),
    "public.event_log": ("0015", "EVENT_LOG"),
    "public.poll_results": ("0007", "POLL_RESULTS"),
    "public.read_model_freshness": ("0027", "FRESHNESS"),
}
_VIEWS_OF_PARTITIONS = {"eventstore.event_positions": ("0031", "IDS_OF_PARTITIONS")}
# Not everybody may run these: most run with their owner's rights, and the others would show their schema to readers.
_PRIVATE_FUNCTIONS = {
    _REFUSE_CHANGE: "REVOKE ALL ON FUNCTION eventstore.refuse_change() FROM PUBLIC",
    "projections.drop_shadow_tables(text[])": (
        "REVOKE ALL ON FUNCTION projections.drop_shadow_tables(text[]) FROM PUBLIC"
    ),
    "eventstore.redecode(jsonb)": "REVOKE ALL ON FUNCTION eventstore.redecode(jsonb) FROM PUBLIC",
    "eventstore.keep_event_ids()": "REVOKE ALL ON FUNCTION eventstore.keep_event_ids() FROM PUBLIC",
    "eventstore.make_partition(bigint)": "REVOKE ALL ON FUNCTION eventstore.make_partition(bigint) FROM PUBLIC",
    "eventstore.make_partitions(bigint)": "REVOKE ALL ON FUNCTION eventstore.make_partitions(bigint) FROM PUBLIC",
    "eventstore.abandon_partitioning()": "REVOKE ALL ON FUNCTION eventstore.abandon_partitioning() FROM PUBLIC",
    _ERASE_EVENTS: "REVOKE ALL ON FUNCTION eventstore.erase_events(bigint[], text[], bytea[]) FROM PUBLIC",
}

# Of a distributed log, readers run it in a view.
_PRIVATE_ON_ONE_SERVER = {
    _TIMES_OF_POSITIONS: "REVOKE ALL ON FUNCTION eventstore.times_of_positions(bigint[]) FROM PUBLIC"
}

_FUNCTION_TEXT = re.compile(r"SET search_path = (?P<path>[^$]*?)\s*AS \$\$(?P<source>.*)\$\$", re.DOTALL)


class Drift(NamedTuple):
    """Something that differs from the schema as it was made.

    Attributes:
        what: what is wrong, as a sentence without its end.
        repair: the statements that repair it, each in a transaction of its own; empty if only a backup can.
        is_new: whether this is the last step of a migration rather than a later change.
        is_unfinished: whether it may be at work now: ``what`` then says what to do.

    """

    what: str
    repair: tuple[str, ...]
    is_new: bool = False
    is_unfinished: bool = False

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do."""
        if self.is_unfinished:
            return self.what
        remedy = "run projections migrate" if self.repair else "restore it from a backup"
        return f"{self.what}; {remedy}"


_Catalog = dict[tuple[str, str, str], CatalogEntry]


async def find_drift(conn: AsyncConnection[Any]) -> list[Drift]:
    """Return what differs, in the order in which it is to be repaired."""
    entries, behind = await read_catalog(conn)
    return [*_compare(entries), *(_of_sequence(table, sequence) for table, sequence in behind)]


def find_drift_sync(connection: Connection) -> list[Drift]:
    """Return the same as :func:`find_drift`, for migrations."""
    entries, behind = read_catalog_sync(connection)
    return [*_compare(entries), *(_of_sequence(table, sequence) for table, sequence in behind)]


def _compare(entries: list[CatalogEntry]) -> Iterator[Drift]:
    relations = {one.object: one for one in entries if one.kind == "relation"}
    catalog = {(one.kind, one.object, one.name): one for one in entries}
    tables = [table for metadata in target_metadata for table in metadata.tables.values()]
    is_distributed = any(one.kind == "distributed" for one in entries)
    functions = {one.object: one for one in entries if one.kind == "function"}
    yield from _of_functions(functions, is_distributed=is_distributed)
    for table in tables:
        found = relations.get(table.fullname)
        if found is None:
            # Migrate creates a read model's table again, and its projection's status says that it is missing.
            if table.schema != READ_MODEL_SCHEMA:
                yield Drift(f"table {table.fullname} is missing", ())
            continue
        if found.definition != "p":
            what = f"table {table.fullname} is UNLOGGED, so a crash would empty it"
            yield Drift(what, (_alter_table(table, sql.SQL("SET LOGGED")),))
        yield from _of_keys(table, entries, is_partitioned=found.name == "p", is_distributed=is_distributed)
        yield from _of_columns(table, catalog)
        yield from _of_checks(table, catalog)
    is_partitioned = _EVENTS in relations and relations[_EVENTS].name == "p"
    if _EVENTS in relations:
        yield from _of_triggers(
            catalog, EVENT_TRIGGERS | ({"keep_event_ids": _KEEP_EVENT_IDS} if is_partitioned else {})
        )
        if not is_partitioned:
            yield from _of_unfinished_partitioning(catalog)
        yield from _of_keys_of_partitions(entries)
    yield from _of_views(entries, is_partitioned=is_partitioned, is_distributed=is_distributed)


def _of_views(entries: Iterable[CatalogEntry], *, is_partitioned: bool, is_distributed: bool) -> Iterator[Drift]:
    found = {one.object for one in entries if one.kind == "relation"}
    for view in (view for view in _VIEWS if view not in found):
        statement = create_view(view, is_partitioned=is_partitioned)
        repair = for_distributed_log(view, statement) if is_distributed else statement
        yield Drift(f"view {view} is missing", (repair,))


def _of_sequence(table: str, sequence: str) -> Drift:
    text = sql.SQL("SELECT pg_catalog.setval({}, (SELECT max(id) FROM {}))")
    repair = text.format(sql.Literal(sequence), sql.Identifier(*table.split("."))).as_string()
    return Drift(f"the next ids of sequence {sequence} are already used in {table}", (repair,))


def _of_functions(found: dict[str, CatalogEntry], *, is_distributed: bool) -> Iterator[Drift]:
    private = {**_PRIVATE_FUNCTIONS, **({} if is_distributed else _PRIVATE_ON_ONE_SERVER)}
    for function, (revision, name) in _FUNCTIONS.items():
        statement = read_text(revision, name).strip()
        revoke = [private[function]] if function in private else []
        entry = found.get(function)
        match = _FUNCTION_TEXT.search(statement)
        if match is None:
            raise ValueError(f"the text of {function} can't be parsed")
        definer = " security definer" if "SECURITY DEFINER" in statement[: match.start("source")] else ""
        as_made = (f'{{"search_path={match["path"]}"}}{definer}', f"{{search_path={match['path']}}}{definer}")
        if entry is None or entry.definition != match["source"] or entry.name not in as_made:
            what = "is missing" if entry is None else "was changed"
            replace = re.sub(r"^\s*CREATE( OR REPLACE)? FUNCTION", "CREATE OR REPLACE FUNCTION", statement)
            yield Drift(f"function {function} {what}", (replace, *revoke))
        elif revoke and not entry.holds:
            yield Drift(f"everybody may run function {function}", (*revoke,))


def _of_unfinished_partitioning(catalog: _Catalog) -> Iterator[Drift]:
    if ("check", _EVENTS, FIRST_PARTITION_CHECK) in catalog:
        yield Drift(_UNFINISHED, ("SELECT eventstore.abandon_partitioning()",), is_unfinished=True)


def _of_triggers(catalog: _Catalog, triggers: Mapping[str, str]) -> Iterator[Drift]:
    for name, create in triggers.items():
        events = sql.Identifier(*_EVENTS.split("."))
        always = sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(events, sql.Identifier(name)).as_string()
        entry = catalog.get(("trigger", _EVENTS, name))
        what = f"trigger {name} on {_EVENTS}"
        if entry is None:
            yield Drift(f"{what} is missing", (create, always))
        elif entry.definition != create:
            replace = create.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
            yield Drift(f"{what} was changed", (replace, always))
        elif not entry.holds:
            yield Drift(f"{what} isn't ENABLE ALWAYS, so some sessions can change events", (always,))


def _of_keys(
    table: Table, entries: Iterable[CatalogEntry], *, is_partitioned: bool, is_distributed: bool
) -> Iterator[Drift]:
    keys = [("primary key", f"{table.name}_pkey", [column.name for column in table.primary_key.columns])]
    if is_partitioned:  # each partition has one
        keys = []
    keys += [
        ("unique", str(one.name), [column.name for column in one.columns])
        for one in table.constraints
        if isinstance(one, UniqueConstraint)
    ]
    if is_distributed and table.fullname == _EVENTS:
        keys = [("primary key", "events_pkey", ["event_id", "send_request_id"])]
    found = {(one.kind, one.definition) for one in entries if one.object == table.fullname}
    for kind, name, columns in keys:
        listed = ", ".join(columns)
        if (kind, listed) not in found:
            add = sql.SQL("ADD CONSTRAINT {} {} ({})").format(
                sql.Identifier(name),
                sql.SQL("PRIMARY KEY" if kind == "primary key" else "UNIQUE"),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
            )
            yield Drift(f"table {table.fullname} has lost {kind} ({listed})", (_alter_table(table, add),))


def _of_keys_of_partitions(entries: Iterable[CatalogEntry]) -> Iterator[Drift]:
    for lost in (one.object for one in entries if one.kind == "keyless partition"):
        schema, name = lost.split(".")
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY (event_id)").format(
            sql.Identifier(schema, name), sql.Identifier(f"{name}_pkey")
        )
        yield Drift(f"table {lost} has lost primary key (event_id)", (add.as_string(),))


def _of_columns(table: Table, catalog: _Catalog) -> Iterator[Drift]:
    for column in table.columns:
        entry = catalog.get(("not null", table.fullname, column.name))
        if entry is None:
            yield Drift(f"column {table.fullname}.{column.name} is missing", ())
        elif not column.nullable and not entry.holds:
            set_not_null = sql.SQL("ALTER COLUMN {} SET NOT NULL").format(sql.Identifier(column.name))
            what = f"column {table.fullname}.{column.name} is no longer NOT NULL"
            yield Drift(what, (_alter_table(table, set_not_null),))


def _of_checks(table: Table, catalog: _Catalog) -> Iterator[Drift]:
    checks = sorted((str(one.name), one) for one in table.constraints if isinstance(one, CheckConstraint) and one.name)
    for name, check in checks:
        entry = catalog.get(("check", table.fullname, name))
        if entry is not None and entry.holds:
            continue
        # In two transactions: the first locks the table and reads no row, the second reads all and hardly locks.
        validate = _alter_table(table, sql.SQL("VALIDATE CONSTRAINT {}").format(sql.Identifier(name)))
        if entry is None:
            condition = sql.SQL(str(check.sqltext))
            add = sql.SQL("ADD CONSTRAINT {} CHECK ({}) NOT VALID").format(sql.Identifier(name), condition)
            yield Drift(f"table {table.fullname} has lost CHECK {name}", (_alter_table(table, add), validate))
        else:
            yield Drift(f"CHECK {name} of {table.fullname} isn't validated yet", (validate,), is_new=True)


def _alter_table(table: Table, action: sql.Composable) -> str:
    return sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(*table.fullname.split(".")), action).as_string()


def create_view(view: str, *, is_partitioned: bool = False) -> str:
    """Return the statement by which a revision creates one of our views; some of them are composed when it runs."""
    from projections.migrating.alembic_scripts import load_revision  # noqa: PLC0415 - loads Alembic, which takes long

    revision, name = (_VIEWS | (_VIEWS_OF_PARTITIONS if is_partitioned else {}))[view]
    return str(getattr(load_revision(revision), name)).strip()
