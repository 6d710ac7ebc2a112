"""Partitions the log by position while events are appended and folded: the table that is there is the first partition.

Invariants. No event is copied. What takes long reads the log and locks nothing that an append, a fold or a reader
needs; what locks ``eventstore.events`` alone takes a moment, and is given up and tried again if others hold the table.
A process that is killed at any point leaves a log of one table or a partitioned one, never anything between: one
transaction puts the partitioned table in the place of the table.

1. A CHECK says that the table's positions belong into the first partition, so that attaching it need not read it. If
   events come so fast that they reach its limit, their append removes it (``eventstore/appending/partition_room.py``),
   and this step begins again with a higher one.
2. The check is validated, which reads the log once.
3. One transaction locks out appends, then readers of our views, then everybody. It renames the table and its indexes,
   creates the partitioned one with everything that the table had, attaches the table with its indexes, creates the
   trigger that looks for ids in other partitions, creates the next partition, and lets the views read the new table.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventstore.locks import APPEND_LOCK, PARTITION_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.partitions import FIRST_PARTITION_CHECK
from projections.errors import MigrationRefused, ProjectionsError
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.revision_files import read_text
from projections.migrating.sqlalchemy_connection import one_session, sqlalchemy_connection
from projections.migrating.table_catalog import EVENTS, KEEP_EVENT_IDS, EventsTable, execute, read_events_table

LEAST_EVENTS, MOST_EVENTS = 1_000, 10**12
"""The fewest and the most events that a partition may be given by the command."""
ATTEMPTS = 10

FIRST_PARTITION = "events_from_1"
_REVISION = "0031"
_CREATE_TRIGGER = f"""CREATE TRIGGER {KEEP_EVENT_IDS} AFTER INSERT ON eventstore.events
FOR EACH STATEMENT EXECUTE FUNCTION eventstore.keep_event_ids()"""
_ALWAYS = f"ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER {KEEP_EVENT_IDS}"
_BEGIN_AT_HEAD = """
INSERT INTO eventstore.event_ids_up_to (id, position, event_id)
SELECT 1, coalesce(max(last.position), 0), max(last.event_id)
FROM (SELECT position, event_id FROM eventstore.events ORDER BY position DESC LIMIT 1) AS last
"""
_HEAD = "SELECT coalesce(max(position), 0) FROM eventstore.events"
_ADD_CHECK = sql.SQL(
    "ALTER TABLE eventstore.events ADD CONSTRAINT {} CHECK (position >= 1::bigint AND position < {}::bigint) NOT VALID"
)
_VALIDATE = sql.SQL("ALTER TABLE eventstore.events VALIDATE CONSTRAINT {}").format(
    sql.Identifier(FIRST_PARTITION_CHECK)
)
_DROP_CHECK = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}")
_IS_VALID = "SELECT convalidated FROM pg_constraint WHERE conrelid = 'eventstore.events'::regclass AND conname = %s"
_ADD_PARTITION = (
    "INSERT INTO eventstore.partitions"
    " (name, first_position, last_position, made_at, has_key, least_event_id, greatest_event_id)"
    " SELECT %s, %s, %s, clock_timestamp(), true, min(event_id), max(event_id) FROM eventstore.events"
)
_LOCK_VIEW = sql.SQL("ALTER VIEW {} ALTER COLUMN position DROP DEFAULT")
"""Locks a view alone, and changes nothing: it has no default. LOCK TABLE would lock what the view reads, too."""
_LAST = "SELECT count(*), max(last_position) - max(first_position) + 1 FROM eventstore.partitions"
_MAKE_PARTITION = "SELECT eventstore.make_partition(%s)"


class PartitionedLog(NamedTuple):
    """How many partitions the log has, and how many positions each new one has; no partitions for one table."""

    partitions: int
    events: int | None


def read_partitioning(url: str) -> PartitionedLog:
    """Return how a database's log is partitioned.

    Raises:
        DatabaseUnavailable: the database can't be reached.

    """
    with sqlalchemy_connection(url) as connection:
        if connection.exec_driver_sql("SELECT to_regclass('eventstore.partitions')").scalar() is None:
            return PartitionedLog(0, None)  # a revision before partitions
        return _read(connection)


def partition_log(
    url: str, size: int, *, patience: LockPatience | None = None, report: Callable[[str], None] = lambda _: None
) -> PartitionedLog:
    """Partition the log, or let new partitions of a partitioned one have another size.

    Args:
        url: a database at the newest revision.
        size: how many positions each new partition has.
        patience: how long to wait for locks; None for what the environment sets.
        report: is called with what is done, as a sentence without its end.

    Raises:
        MigrationRefused: something refers to the table of events, or the log is distributed; nothing was changed.
        MigrationBlocked: other sessions held a lock for too long; the log is one table.
        DatabaseUnavailable: the database can't be reached.

    """
    with one_session(url):
        run_in_transaction(url, _refuse_distributed, patience)
        found = run_in_transaction(url, partial(_resize_if_partitioned, size=size), patience)
        if found.partitions:
            return found
        for _ in range(ATTEMPTS):
            report("reading the log once, to attach it as the first partition")
            try:
                last = run_in_transaction(url, partial(_add_check, size=size), patience)
                run_in_transaction(url, lambda connection: execute(connection, _VALIDATE), patience)
                done = run_in_transaction(url, partial(_replace_table, size=size, last=last), patience)
            except DBAPIError as error:
                if _sqlstate(error) != "42704":  # an append dropped the check before it was validated
                    _abandon(url, patience)
                    raise
                continue
            except BaseException:
                _abandon(url, patience)
                raise
            if done:
                _analyze(url)
                return read_partitioning(url)
    raise ProjectionsError(
        f"events are appended too fast for partitions of {size:,} events; give --partition-events a larger number"
    )


def _refuse_distributed(connection: Connection) -> None:
    if connection.exec_driver_sql("SELECT EXISTS (SELECT FROM eventstore.distributed_head)").scalar_one():
        raise MigrationRefused(
            "the log is distributed by Citus, and can't be partitioned: export it, and import it into an empty database"
            " that is partitioned; see projections docs scaling"
        )


def _read(connection: Connection) -> PartitionedLog:
    count, size = connection.exec_driver_sql(_LAST).one()
    return PartitionedLog(count, size)


def _resize_if_partitioned(connection: Connection, size: int) -> PartitionedLog:
    connection.exec_driver_sql(WAIT_FOR_TRANSACTION_LOCK, (PARTITION_LOCK,))
    count, current = connection.exec_driver_sql(_LAST).one()
    if count and current != size:
        connection.exec_driver_sql(_MAKE_PARTITION, (size,))
    return _read(connection)


def _add_check(connection: Connection, size: int) -> int:
    read_events_table(connection)  # refuses what can't be carried over, before the log is read
    execute(connection, _DROP_CHECK.format(sql.Identifier(*EVENTS.split(".")), sql.Identifier(FIRST_PARTITION_CHECK)))
    head = connection.exec_driver_sql(_HEAD).scalar_one()
    # At least one partition's length ahead, in which events are appended until the table is attached.
    last = -(-(head + size) // size) * size
    execute(connection, _ADD_CHECK.format(sql.Identifier(FIRST_PARTITION_CHECK), last + 1))
    return int(last)


def _replace_table(connection: Connection, size: int, last: int) -> bool:
    """Put a partitioned table in the place of the table; False if the check is gone."""
    # Appends and folds lock these in this order; in another one, each could wait for the other.
    connection.exec_driver_sql(WAIT_FOR_TRANSACTION_LOCK, (APPEND_LOCK,))
    for name in ("head", "event_positions"):
        execute(connection, _LOCK_VIEW.format(sql.Identifier("eventstore", name)))
    execute(connection, "LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE")
    if not connection.exec_driver_sql(_IS_VALID, (FIRST_PARTITION_CHECK,)).scalar():
        return False
    had = read_events_table(connection)
    _rename_table(connection, had)
    first = sql.Identifier("eventstore", FIRST_PARTITION)
    execute(
        connection,
        sql.SQL(
            "CREATE TABLE eventstore.events (LIKE {} INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (position)"
        ).format(first),
    )
    events = sql.Identifier(*EVENTS.split("."))
    execute(connection, _DROP_CHECK.format(events, sql.Identifier(FIRST_PARTITION_CHECK)))
    equip_table(connection, had)
    execute(
        connection,
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (1) TO ({})").format(events, first, last + 1),
    )
    execute(connection, _DROP_CHECK.format(first, sql.Identifier(FIRST_PARTITION_CHECK)))
    identity = sql.SQL("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}")
    execute(connection, identity.format(first, sql.Identifier(partition_index_name("events_position_key"))))
    comment = sql.SQL("COMMENT ON TABLE {} IS 'A partition of eventstore.events; read that.'")
    execute(connection, comment.format(first))
    for one in had.triggers:
        execute(connection, one.enable)
    connection.exec_driver_sql(_ADD_PARTITION, (FIRST_PARTITION, 1, last))
    for statement in (_CREATE_TRIGGER, _ALWAYS, _BEGIN_AT_HEAD):
        execute(connection, statement)
    for view in had.views:
        execute(connection, view.replace)
    execute(connection, read_text(_REVISION, "IDS_OF_PARTITIONS"))
    connection.exec_driver_sql(_MAKE_PARTITION, (size,))
    return True


def _rename_table(connection: Connection, had: EventsTable) -> None:
    execute(connection, sql.SQL("ALTER TABLE eventstore.events RENAME TO {}").format(sql.Identifier(FIRST_PARTITION)))
    first = sql.Identifier("eventstore", FIRST_PARTITION)
    for index in had.indexes:
        rename = sql.SQL("ALTER INDEX {} RENAME TO {}").format(
            sql.Identifier("eventstore", index.name), sql.Identifier(partition_index_name(index.name))
        )
        execute(connection, rename)
    for trigger in had.triggers:
        # Those for each row come back with the partitioned table's.
        if trigger.is_for_each_row:
            execute(connection, sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(trigger.name), first))


def partition_index_name(name: str) -> str:
    """Return the name that an index of the table has when the table is the first partition."""
    return f"{FIRST_PARTITION}_{name.removeprefix('events_')}"


def equip_table(connection: Connection, had: EventsTable) -> None:
    """Give a new, empty table of events what the one before it had, except its views."""
    execute(connection, sql.SQL("ALTER TABLE eventstore.events OWNER TO {}").format(sql.Identifier(had.owner)))
    _revoke_defaults(connection, EVENTS)
    for index in had.indexes:
        if index.is_primary_key:
            continue
        execute(connection, index.create)
        if index.comment:
            execute(connection, index.comment)
    for statement in had.properties:
        execute(connection, statement)
    for trigger in had.triggers:
        execute(connection, trigger.create)
        execute(connection, trigger.enable)
    _revoke_defaults(connection, f"eventstore.{FIRST_PARTITION}")


_GRANTEES = """
SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
FROM pg_class AS c, aclexplode(c.relacl) AS x WHERE c.oid = %s::regclass AND x.grantee <> c.relowner
"""


def _revoke_defaults(connection: Connection, table: str) -> None:
    for (role,) in connection.exec_driver_sql(_GRANTEES, (table,)).all():
        revoke = sql.SQL("REVOKE ALL ON {} FROM {}").format(sql.Identifier(*table.split(".")), sql.SQL(role))
        execute(connection, revoke)


def _abandon(url: str, patience: LockPatience | None) -> None:
    with suppress(Exception):
        run_in_transaction(
            url, lambda connection: execute(connection, "SELECT eventstore.abandon_partitioning()"), patience
        )


def _analyze(url: str) -> None:
    """Let the planner know the log as a whole; Postgres never does that by itself for a partitioned table."""
    with sqlalchemy_connection(url) as connection, connection.begin():
        execute(connection, "ANALYZE eventstore.events")


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
