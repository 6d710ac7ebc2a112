"""Takes a database back to an earlier revision, so that an earlier version of this program can use it.

Invariants. It is one transaction. No event and no payload is lost: only what later revisions added is dropped, and the
partitions of a log become one table if the earlier version knows none. Rows of a read model that newer code may have
folded get version 0, which no code has; so no code folds into them until a rebuild by the earlier version has made them
its own. Rows of version 1 are those of every earlier version.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from eventstore.errors import UsageError
from projections.errors import MigrationRefused
from projections.migrating.lock_patience import LockPatience
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import run_migration
from projections.migrating.missing_tables import find_missing_tables
from projections.migrating.one_table import PARTITIONS_SINCE, make_one_table
from projections.migrating.revision_files import read_revisions
from projections.migrating.schema_revision import current_revision

EARLIEST = "0012"
"""The earliest revision that a database can be taken back to: every version that was ever installed can use it."""

ARCHIVES = "0026"
"""The revision since which events can be archived."""

_ARCHIVED_UP_TO = text("SELECT max(last) FROM eventstore.archived_partitions WHERE dropped_at IS NOT NULL")
DISTRIBUTED_SINCE = "0027"
"""The revision since which a log can be distributed."""

ERASED_SINCE = "0028"
"""The revision since which persons can be erased from a distributed log."""

_IS_DISTRIBUTED = "SELECT EXISTS (SELECT FROM eventstore.distributed_head)"
_HAS_ERASURES = "SELECT EXISTS (SELECT FROM eventstore.erasures)"
_FORGET = text("DELETE FROM projections.checkpoints WHERE name = :name")
_WAIT = text(
    "UPDATE projections.checkpoints SET version = 0, last_error = :error, last_error_at = clock_timestamp(),"
    " state = CASE WHEN state = 'paused' THEN 'paused' ELSE 'waiting' END WHERE name = :name AND version > 1"
)


def go_back(url: str, revision: str, *, patience: LockPatience | None = None) -> tuple[str | None, str | None]:
    """Take a database back to a revision, and let its read models wait for a rebuild where that is needed.

    Returns:
        The revision before and after.

    Raises:
        UsageError: there is no such revision, or it is too early.
        MigrationRefused: the database has an earlier revision already, or one of a newer version.
        MigrationBlocked: other sessions held a lock for too long; nothing was changed.
        DatabaseUnavailable: the database can't be reached.

    """
    possible = sorted(known for known in read_revisions() if known >= EARLIEST)
    if revision not in possible:
        raise UsageError(f"can't go back to revision {revision!r}; possible are {', '.join(possible)}")

    def step(config: Config) -> None:
        connection: Connection = config.attributes["connection"]
        before = current_revision(connection)
        if before is None or before < revision:
            has = "has no schema yet" if before is None else f"has revision {before}, which is earlier"
            raise MigrationRefused(f"can't go back to revision {revision}: the database {has}")
        if before >= DISTRIBUTED_SINCE and connection.exec_driver_sql(_IS_DISTRIBUTED).scalar_one():
            _refuse_distributed_log(connection, before, revision)
        _refuse_archived(connection, before, revision)
        if revision < PARTITIONS_SINCE <= before:
            make_one_table(connection)
        command.downgrade(config, revision)
        if before != revision:
            _mark_read_models(connection)

    return run_migration(url, step, patience)


def _refuse_distributed_log(connection: Connection, before: str, revision: str) -> None:
    """Refuse to go back to a version that doesn't know all that was done with a distributed log."""
    if revision < DISTRIBUTED_SINCE:
        why = "the log is distributed by Citus, which earlier versions don't know"
    elif before >= ERASED_SINCE > revision and connection.exec_driver_sql(_HAS_ERASURES).scalar_one():
        why = "persons were erased, which earlier versions don't know of a log that is distributed by Citus"
    else:
        return
    raise MigrationRefused(
        f"can't go back to revision {revision}: {why}; export it, and import it into a database of one server"
    )


def _refuse_archived(connection: Connection, before: str, revision: str) -> None:
    """Refuse to go back to a version that doesn't know archives: for it the archived events would be missing."""
    if before >= ARCHIVES > revision and (up_to := connection.execute(_ARCHIVED_UP_TO).scalar()):
        raise MigrationRefused(
            f"can't go back to revision {revision}: positions 1 to {up_to:,} are archived, and versions before"
            f" {ARCHIVES} can't read archives"
        )


def _mark_read_models(connection: Connection) -> None:
    for projection in READ_MODELS:
        if len(find_missing_tables(connection, projection())) == len(projection.tables):
            connection.execute(_FORGET, {"name": projection.name})
        else:
            error = f"its rows may be those of a newer version; run projections rebuild {projection.name}"
            connection.execute(_WAIT, {"name": projection.name, "error": error})
