"""Runs one step of a migration in a transaction, and again until no lock of another session stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from eventstore.locks import MIGRATE_LOCK, WAIT_FOR_TRANSACTION_LOCK
from eventstore.postgres.session_settings import LOCK_TIMEOUT, milliseconds
from eventstore.waits import load_waits
from projections.migrating.blocking_sessions import BlockingSessions
from projections.migrating.lock_patience import LockPatience, retry_migration_on_lock
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection

T = TypeVar("T")


def run_in_transaction(url: str, work: Callable[[Connection], T], patience: LockPatience | None) -> T:
    """Run some work in one transaction that holds the migration lock.

    Args:
        url: the database.
        work: is called for each attempt.
        patience: how long to wait for locks; None for what the environment sets.

    Raises:
        MigrationBlocked: not within ``give_up_after``; the message names who holds the lock.
        Exception: whatever the work raises.

    """
    waits = load_waits()
    patience = patience or LockPatience(waits.migrate_lock)
    blocking = BlockingSessions(url, waits)
    lock_timeout = milliseconds(max(patience.lock, 0.001))

    def attempt() -> T:
        with sqlalchemy_connection(url) as connection, connection.begin(), blocking.watch(connection):
            connection.exec_driver_sql(LOCK_TIMEOUT, (lock_timeout,))
            connection.exec_driver_sql(WAIT_FOR_TRANSACTION_LOCK, (MIGRATE_LOCK,))
            return work(connection)

    return retry_migration_on_lock(attempt, patience, blocking.describe)
