"""Distributes the log and the read models over the servers of a Citus cluster.

Invariants. It is one transaction, which locks the event table and the read models first: everybody else sees the log
as it was, or distributed. Events and rows that exist are copied to the other servers, and their copies here are
removed. The head's row is written in it too; from then on everybody reads and appends as
:mod:`eventstore.distributed_log` says. What is distributed already stays as it is, so a later run distributes the
tables of new projections.

Events, and read models of requests, are distributed by ``send_request_id``, so that what belongs to a request is on
one server; read models of persons by ``ppnum``; others by the first column that their projection is partitioned by.
All else stays on the coordinator: checkpoints, cursors, quarantine, consumers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

import structlog
from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import DBAPIError

from eventstore.errors import describe
from projections.errors import MigrationRefused
from projections.migrating.distributed_views import LET_READERS_SEE_TIMES, VIEWS_OF_EVENTS, for_distributed_log
from projections.migrating.key_collations import CollationKept, change_to_bytes
from projections.migrating.lock_patience import LockPatience
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.schema_drift import EVENT_TRIGGERS, create_view
from projections.projection import Projection
from projections.registry import find_valid_projections

log = structlog.get_logger(__name__)

OLDEST_CITUS = 14
"""The oldest major version of Citus on which all of this was tried."""

_EVENTS = "eventstore.events"
_OWN_COLUMNS = ("send_request_id", "ppnum")
"""The columns that tell what belongs together, the first that a projection is partitioned by before the others."""
_CITUS = "SELECT extversion FROM pg_extension WHERE extname = 'citus'"
_SERVERS = "SELECT count(*) FROM pg_catalog.citus_get_active_worker_nodes()"
_IS_DISTRIBUTED = "SELECT EXISTS (SELECT 1 FROM eventstore.distributed_head)"
_DISTRIBUTED = "SELECT logicalrelid::oid FROM pg_catalog.pg_dist_partition"
_IS_PARTITIONED = "SELECT EXISTS (SELECT FROM eventstore.partitions)"
# Earlier versions don't know a distributed log, and can't be started after the migration; but they may run still.
_WRITERS = (
    "SELECT string_agg(DISTINCT substring(application_name FROM '^projections [^ ]+'), ', ') FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND application_name ~ '^projections (ingest|run|rebuild|verify|redecode|erase|retry|import) '"
)
_HAS_COLLATION_OF = (
    "SELECT count(DISTINCT attcollation) < 2 FROM pg_attribute WHERE attname = 'send_request_id'"
    " AND attrelid IN (to_regclass('eventstore.events'), to_regclass(:other))"
)
_OID = "SELECT to_regclass(:name)::oid"
_DISTRIBUTE = "SELECT pg_catalog.create_distributed_table(to_regclass(:name), :column, colocate_with => :with_)"
_REMOVE_LOCAL_ROWS = "SELECT pg_catalog.truncate_local_data_after_distributing_table(to_regclass(:name))"
# The key must have the distribution column, which can't be NULL. The triggers would refuse the change of the events
# without a request, and can't be there while the table is distributed.
_PREPARE_EVENTS = (
    *(f"DROP TRIGGER {name} ON eventstore.events" for name in EVENT_TRIGGERS),
    "UPDATE eventstore.events SET send_request_id = '' WHERE send_request_id IS NULL",
    "ALTER TABLE eventstore.events DROP CONSTRAINT events_pkey, DROP CONSTRAINT events_position_key",
    "ALTER TABLE eventstore.events ADD CONSTRAINT events_pkey PRIMARY KEY (event_id, send_request_id)",
    "CREATE INDEX events_position_idx ON eventstore.events (position)",
)
_PROTECT_EVENTS = (
    "SET LOCAL citus.enable_unsafe_triggers = on",
    *EVENT_TRIGGERS.values(),
    *(f"ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER {name}" for name in EVENT_TRIGGERS),
)
_INSERT_HEAD = (
    "INSERT INTO eventstore.distributed_head (id, position, received_at, event_id)"
    " SELECT 1, coalesce(max(position), 0), max(received_at), max(event_id) FROM eventstore.head"
)
_HAS_SHADOWS = "SELECT to_regclass('projections_shadow.shadow_positions') IS NOT NULL"


@dataclass(slots=True)
class Distributed:
    """What was done.

    Attributes:
        servers: how many servers hold rows now.
        events: how many events were copied; None if the log was distributed before.
        tables: the read models' tables that were distributed, by name, and the column by which.
        locked_seconds: how long the log and the read models were locked.

    """

    servers: int
    events: int | None = None
    tables: dict[str, str] = field(default_factory=dict)
    locked_seconds: float = 0.0


def distribute(
    url: str, projections: Iterable[Projection] | None = None, *, patience: LockPatience | None = None
) -> Distributed:
    """Distribute the log and the read models of a database whose schema is current.

    Args:
        url: the database, on the coordinator.
        projections: whose tables to distribute; None for those registered, and the built-in ones.
        patience: how long to wait for locks; None for what the environment sets.

    Raises:
        MigrationRefused: the database has no Citus, or a table can't be distributed; nothing was changed.
        MigrationBlocked: other sessions held a lock for too long; nothing was changed.
        DatabaseUnavailable: the database can't be reached.

    """

    def work(connection: Connection) -> Distributed:
        servers = _require_servers(connection)
        return _distribute(connection, servers, _tables_of(projections))

    return run_in_transaction(url, work, patience)


def distribute_new_tables(url: str, projections: Iterable[Projection], patience: LockPatience | None = None) -> None:
    """Distribute tables that a migration created, if the log is distributed.

    Args:
        url: the database, on the coordinator.
        projections: whose tables to distribute.
        patience: how long to wait for locks; None for what the environment sets.

    Raises:
        MigrationRefused: one can't be distributed.
        MigrationBlocked: other sessions held a lock for too long.

    """

    def work(connection: Connection) -> dict[str, str]:
        if not connection.exec_driver_sql(_IS_DISTRIBUTED).scalar_one():
            return {}
        return _distribute_tables(connection, _tables_of(projections))

    for table, column in run_in_transaction(url, work, patience).items():
        log.info("distributed a table", table=table, by=column)


def _require_servers(connection: Connection) -> int:
    version = connection.exec_driver_sql(_CITUS).scalar()
    if version is None:
        raise MigrationRefused(
            "this database has no Citus: let a superuser run CREATE EXTENSION citus in it on every server, then"
            " citus_set_coordinator_host and citus_add_node on the coordinator; see projections docs scaling"
        )
    if int(version.partition(".")[0]) < OLDEST_CITUS:
        raise MigrationRefused(f"this database has Citus {version}; distributing needs Citus {OLDEST_CITUS} or later")
    servers = int(connection.exec_driver_sql(_SERVERS).scalar_one())
    if servers == 0:
        raise MigrationRefused(
            "this database has Citus, but no workers: let a superuser run SELECT citus_add_node('host', 5432) for each,"
            " on the coordinator"
        )
    return servers


def _tables_of(projections: Iterable[Projection] | None) -> list[tuple[Projection, Table]]:
    chosen = find_valid_projections().values() if projections is None else projections
    every = {one.name: one for one in (*(model() for model in READ_MODELS), *chosen)}
    return [(projection, table) for projection in every.values() for table in projection.tables]


def _distribute(connection: Connection, servers: int, tables: list[tuple[Projection, Table]]) -> Distributed:
    result = Distributed(servers)
    names = [_EVENTS, *(table.fullname for _, table in tables if _oid(connection, table.fullname) is not None)]
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(map(_quoted, names))} IN ACCESS EXCLUSIVE MODE")
    began = monotonic()
    if not connection.exec_driver_sql(_IS_DISTRIBUTED).scalar_one():
        if connection.exec_driver_sql(_IS_PARTITIONED).scalar_one():
            raise MigrationRefused(
                "the log is partitioned, and can't be distributed: export it, and import it into an empty database that"
                " is distributed; see projections docs scaling"
            )
        if (running := connection.exec_driver_sql(_WRITERS).scalar_one()) is not None:
            raise MigrationRefused(
                f"stop every process that stores or folds events, and start it again afterwards; running: {running}"
            )
        result.events = int(connection.exec_driver_sql("SELECT count(*) FROM eventstore.events").scalar_one())
        _distribute_events(connection)
    result.tables = _distribute_tables(connection, tables)
    result.locked_seconds = monotonic() - began
    return result


def _distribute_events(connection: Connection) -> None:
    # No interrupted rebuild is resumed: its tables are here.
    if connection.exec_driver_sql(_HAS_SHADOWS).scalar_one():
        connection.exec_driver_sql("DELETE FROM projections_shadow.shadow_positions")
    _sort_requests_by_bytes(connection)
    # The views come first: Citus takes those that read a distributed table to the other servers, where no head is.
    views = [for_distributed_log(view, create_view(view)) for view in VIEWS_OF_EVENTS]
    for statement in (_INSERT_HEAD, *views, LET_READERS_SEE_TIMES, *_PREPARE_EVENTS):
        connection.exec_driver_sql(statement)
    _distribute_table(connection, _EVENTS, "send_request_id", "none")
    for statement in _PROTECT_EVENTS:
        connection.exec_driver_sql(statement)


def _sort_requests_by_bytes(connection: Connection) -> None:
    """Give the column the collation that it has in the read models: rows of different ones can't be kept together."""
    if not connection.execute(text(_HAS_COLLATION_OF), {"other": "public.request_status"}).scalar_one():
        try:
            change_to_bytes(connection, table=_EVENTS, columns={"send_request_id": "text"})
        except CollationKept as error:
            raise MigrationRefused(
                f"table {_EVENTS} can't be distributed: {error}; drop it, and create it again afterwards"
            ) from error


def _distribute_tables(connection: Connection, tables: list[tuple[Projection, Table]]) -> dict[str, str]:
    done = set(connection.exec_driver_sql(_DISTRIBUTED).scalars())
    found: dict[str, str] = {}
    # Tables of one column of ours are together; those of another column are together with those of their projection.
    beside: dict[object, str] = {"send_request_id": _EVENTS}
    for projection, table in tables:
        oid = _oid(connection, table.fullname)
        if oid is None:
            continue
        column = distribution_column(projection)
        group = column if column in _OWN_COLUMNS else (projection.name, column)
        if oid not in done:
            _distribute_table(connection, table.fullname, column, beside.get(group, "none"))
            found[table.name] = column
        beside.setdefault(group, table.fullname)
    return found


def distribution_column(projection: Projection) -> str:
    """Return the column by which the tables of a projection are distributed."""
    return next((name for name in _OWN_COLUMNS if name in projection.partition_by), projection.partition_by[0])


def _distribute_table(connection: Connection, name: str, column: str, beside: str) -> None:
    with_ = beside if beside == "none" else _quoted(beside)
    try:
        connection.execute(text(_DISTRIBUTE), {"name": _quoted(name), "column": column, "with_": with_})
        connection.execute(text(_REMOVE_LOCAL_ROWS), {"name": _quoted(name)})
    except DBAPIError as error:
        raise MigrationRefused(f"table {name} can't be distributed by {column}: {describe(error)}") from error


def _oid(connection: Connection, name: str) -> int | None:
    oid: int | None = connection.execute(text(_OID), {"name": _quoted(name)}).scalar_one()
    return oid


def _quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.replace('"', '""').split("."))
