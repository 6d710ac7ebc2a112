"""Makes one table of a partitioned log, for an earlier version of this program.

Invariants. It is part of the transaction that takes the schema back, and holds ``eventstore.events`` alone until that
ends. Every event stays, with its position and its bytes: those of the first partition where they are, the others are
copied there. A log of which partitions were archived stays as it is, because an earlier version couldn't read it.
"""

from __future__ import annotations

from psycopg import sql
from sqlalchemy import Connection

from eventstore.schema import events
from projections.errors import MigrationRefused
from projections.migrating.revision_files import read_text
from projections.migrating.table_catalog import EVENTS, KEEP_EVENT_IDS, EventsTable, execute, read_events_table

PARTITIONS_SINCE = "0024"
"""The revision since which a log can be partitioned."""

_PARTITIONS = "SELECT name, first_position FROM eventstore.partitions ORDER BY first_position"
_OLD = sql.Identifier("eventstore", "events_partitioned")
_INDEXES = """
SELECT p.relname, c.relname
FROM pg_inherits AS i
JOIN pg_index AS pi ON pi.indexrelid = i.inhparent JOIN pg_class AS p ON p.oid = i.inhparent
JOIN pg_index AS ci ON ci.indexrelid = i.inhrelid JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE pi.indrelid = %s::regclass AND ci.indrelid = %s::regclass ORDER BY 1
"""
_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEY = "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'"
_TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
_POLICIES = "SELECT polname FROM pg_policy WHERE polrelid = %s::regclass"


def make_one_table(connection: Connection) -> None:
    """Make one table of the log, if it is partitioned, inside the caller's transaction.

    Raises:
        MigrationRefused: partitions were archived, or something refers to the log that can't be made again.

    """
    rows = connection.exec_driver_sql(_PARTITIONS).all()
    if not rows:
        return
    first, begins = rows[0]
    if begins != 1:
        raise MigrationRefused(
            f"positions 1..{begins - 1:,} were archived, and an earlier version can't read a log without them"
        )
    execute(connection, "LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
    had = read_events_table(connection)
    _put_first_partition_in_place(connection, first)
    _copy_others(connection, [name for name, _ in rows[1:]])
    _equip(connection, had)
    for view in had.views:
        execute(connection, view.replace)
    execute(connection, read_text(PARTITIONS_SINCE, "IDS_OF_TABLE"))
    execute(connection, sql.SQL("DROP TABLE {}").format(_OLD))
    execute(connection, "TRUNCATE eventstore.event_ids, eventstore.event_ids_up_to, eventstore.partitions")


def _put_first_partition_in_place(connection: Connection, first: str) -> None:
    indexes = connection.exec_driver_sql(_INDEXES, (EVENTS, f"eventstore.{first}")).all()
    table = sql.Identifier("eventstore", first)
    execute(connection, sql.SQL("ALTER TABLE eventstore.events DETACH PARTITION {}").format(table))
    execute(connection, "ALTER TABLE eventstore.events RENAME TO events_partitioned")
    execute(connection, sql.SQL("ALTER TABLE {} RENAME TO events").format(table))
    for of_log, of_first in indexes:
        for name, new_name in ((of_log, f"partitioned_{of_log}"), (of_first, of_log)):
            rename = sql.SQL("ALTER INDEX {} RENAME TO {}")
            execute(connection, rename.format(sql.Identifier("eventstore", name), sql.Identifier(new_name)))


def _copy_others(connection: Connection, names: list[str]) -> None:
    columns = [sql.Identifier(row[0]) for row in connection.exec_driver_sql(_COLUMNS, (EVENTS,))]
    listed = sql.SQL(", ").join(columns)
    for name in names:
        copy = sql.SQL("INSERT INTO eventstore.events ({columns}) SELECT {columns} FROM {table} ORDER BY position")
        execute(connection, copy.format(columns=listed, table=sql.Identifier("eventstore", name)))
    _name_or_add_key(connection)
    execute(connection, "ALTER TABLE eventstore.events REPLICA IDENTITY DEFAULT")


def _name_or_add_key(connection: Connection) -> None:
    """Give the key of the first partition the name of the table's; a partition of an earlier version has none."""
    wanted = sql.Identifier(str(events.primary_key.name))
    name = connection.exec_driver_sql(_KEY, (EVENTS,)).scalar()
    if name is None:
        add = sql.SQL("ALTER TABLE eventstore.events ADD CONSTRAINT {} PRIMARY KEY (event_id)")
        execute(connection, add.format(wanted))
    else:
        rename = sql.SQL("ALTER TABLE eventstore.events RENAME CONSTRAINT {} TO {}")
        execute(connection, rename.format(sql.Identifier(name), wanted))


def _equip(connection: Connection, had: EventsTable) -> None:
    for (policy,) in connection.exec_driver_sql(_POLICIES, (EVENTS,)).all():
        execute(connection, sql.SQL("DROP POLICY {} ON eventstore.events").format(sql.Identifier(policy)))
    for statement in had.properties:
        execute(connection, statement)
    present = {row[0] for row in connection.exec_driver_sql(_TRIGGERS, (EVENTS,))}
    for trigger in had.triggers:
        if trigger.name == KEEP_EVENT_IDS:
            continue
        if trigger.name not in present:
            execute(connection, trigger.create)
        execute(connection, trigger.enable)
