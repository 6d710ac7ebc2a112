"""Every advisory lock: its number, what it protects, and the order in which locks are acquired.

A lock's number is a hash of its name. Processes of different versions run side by side, so a number never changes.

=====================  ===========  ====================================================================================
lock                   held by      what it protects
=====================  ===========  ====================================================================================
``MIGRATE_LOCK``       transaction  one migration at a time
``app_lock(app)``      session      one process follows an app, imports its events, or changes its cursor
``IMPORT_LOCK``        session      shared by followers; held alone by an import that adds events after the head
                                    (a retry of quarantined messages shares it in each of its transactions)
``rebuild_lock(name)`` session      one rebuild, verify or as-of of a projection at a time
``consumer_lock(name)`` session     one process hands out a consumer's events, resets it or drops it
``ERASE_LOCK``         session      what changes stored events or fills gaps: one erase, redecode, archive or import
``AS_OF_LOCK``         transaction  shared by an as-of that puts its tables into their schema; an erase holds it alone
``SHADOW_LOCK``        transaction  one process at a time creates the schema of the shadows
``PARTITION_LOCK``     transaction  one session at a time makes partitions of the log, or takes one out
``APPEND_LOCK``        transaction  positions are assigned by one transaction at a time, so they are gapless
``checkpoint_lock(name)`` transaction where the log is distributed: beside the row of a checkpoint, given back when the
                                    other servers have committed too
``fold_lock(name)``    session      informational, shared: shows which sessions fold a projection
=====================  ===========  ====================================================================================

Invariants. Locks of sessions are acquired before all others, several of one kind in the order of their names. They are
only tried, never waited for: a command that doesn't get one releases those that it has and fails, and a follower tries
again later. So they can't deadlock, although their order differs: an import acquires the locks of its apps and then
``IMPORT_LOCK``, a follower ``IMPORT_LOCK`` and then the lock of its app.

A transaction acquires what it needs in this order: ``AS_OF_LOCK``, ``SHADOW_LOCK``, then rows (the cursor of an app,
the checkpoints of projections by name, each with its ``checkpoint_lock``), then ``APPEND_LOCK``; under the append lock
it writes only rows that no other session may write then, and the quarantine of an app, whose row of
``quarantine_usage`` it locks first. Who locks that row without the append lock waits for nothing else while it has it:
an append of rejected messages, ``quarantine drop``, an erase, an import. A retry only tries to share ``IMPORT_LOCK``. A
migration acquires its lock before it does anything.

A process can freeze while its session holds a lock. :mod:`eventstore.postgres.session_lock` makes it lose a session's
lock, except ``fold_lock``, which excludes nobody. :mod:`eventstore.appending.append_lock` terminates a frozen holder of
the append lock.
"""

from __future__ import annotations

import hashlib


def _number(name: str) -> int:
    """Return a lock's number: 64 bits, signed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"projections:{name}".encode()).digest()[:8], "big", signed=True)


MIGRATE_LOCK = _number("migrate")
IMPORT_LOCK = _number("import")
SHADOW_LOCK = _number("shadow tables")
ERASE_LOCK = _number("erase")
AS_OF_LOCK = _number("as-of")
APPEND_LOCK = _number("append")
PARTITION_LOCK = _number("partitions")


def app_lock(app: str) -> int:
    """Return the number of an app's lock."""
    return _number(f"app:{app}")


def rebuild_lock(projection: str) -> int:
    """Return the number of the lock that a rebuild, verify or as-of of a projection holds."""
    return _number(f"rebuild:{projection}")


def consumer_lock(name: str) -> int:
    """Return the number of the lock of whoever hands out the events of a named consumer, or changes it."""
    return _number(f"consumer:{name}")


def checkpoint_lock(projection: str) -> int:
    """Return the number of the lock that whoever writes a projection's rows in a distributed log holds."""
    return _number(f"checkpoint:{projection}")


def fold_lock(projection: str) -> int:
    """Return the number of the lock that all who fold a projection share."""
    return _number(f"fold:{projection}")


TRY_SESSION_LOCK = "SELECT pg_catalog.pg_try_advisory_lock(%s)"
TRY_SHARED_SESSION_LOCK = "SELECT pg_catalog.pg_try_advisory_lock_shared(%s)"
RELEASE_SESSION_LOCKS = "SELECT pg_catalog.pg_advisory_unlock_all()"
TRY_TRANSACTION_LOCK = "SELECT pg_catalog.pg_try_advisory_xact_lock(%s)"
TRY_SHARED_TRANSACTION_LOCK = "SELECT pg_catalog.pg_try_advisory_xact_lock_shared(%s)"
WAIT_FOR_TRANSACTION_LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(%s)"
WAIT_FOR_SHARED_TRANSACTION_LOCK = "SELECT pg_catalog.pg_advisory_xact_lock_shared(%s)"
TRY_TRANSACTION_LOCK_IF = "SELECT CASE WHEN {} THEN pg_catalog.pg_try_advisory_xact_lock(%s) END"
WAIT_FOR_TRANSACTION_LOCK_IF = "SELECT CASE WHEN {} THEN pg_catalog.pg_advisory_xact_lock(%s) IS NULL END"
"""Templates of statements that acquire a lock if a condition holds; the first returns NULL if it doesn't."""
