"""Repairs the schema where a restore or a person changed it, one statement a transaction.

Invariants. Each statement is a transaction of its own, so that none locks a table for longer than it must. What can't
be repaired is reported when everything else is.
"""

from __future__ import annotations

from functools import partial

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventstore.errors import describe
from projections.errors import SchemaBroken
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.schema_drift import Drift, find_drift_sync
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection

log = structlog.get_logger(__name__)


def repair_schema(url: str, *, patience: LockPatience | None = None, keep_unfinished: bool = False) -> None:
    """Repair everything that differs from the schema at its head.

    Args:
        url: the database.
        patience: how long to wait for locks; None for what the environment sets.
        keep_unfinished: whether an unfinished partitioning stays, because the caller goes on with it.

    Raises:
        SchemaBroken: something can't be repaired; everything else is.
        MigrationBlocked: other sessions held a lock for too long.

    """
    with sqlalchemy_connection(url) as connection:
        drifts = find_drift_sync(connection)
    chosen = [drift for drift in drifts if not (keep_unfinished and drift.is_unfinished)]
    failed = [why for drift in chosen if (why := _repair(url, drift, patience)) is not None]
    if failed:
        raise SchemaBroken("; ".join(failed))


def _repair(url: str, drift: Drift, patience: LockPatience | None) -> str | None:
    """Repair one thing; returns what is wrong if that fails."""
    if not drift.repair:
        return drift.sentence
    for statement in drift.repair:
        try:
            run_in_transaction(url, partial(_execute, statement=statement), patience)
        except DBAPIError as error:
            return f"{drift.what}, and repairing it failed: {describe(error)}"
    if not drift.is_new:
        log.warning("repaired the schema", what=drift.what)
    return None


def _execute(connection: Connection, *, statement: str) -> None:
    connection.exec_driver_sql(statement.replace("%", "%%"))
