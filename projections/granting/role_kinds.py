"""The kinds of roles, and the privileges that each kind needs.

Invariants. A kind has what its commands need and nothing else: tests run every command under each kind. No kind may
change a stored event, redecode, create objects in ``public``, or use a trigger. A reader may use ``public`` only. No
kind is given more than SELECT on a view, because views have their owner's rights: a change of a simple view would
change the tables behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from eventstore.schema import quarantine


class RoleKind(StrEnum):
    """What a role is for."""

    READER = "reader"
    WORKER = "worker"
    INGEST = "ingest"
    SERVE = "serve"
    CONSUMER = "consumer"

    @property
    def noun(self) -> str:
        """What a role of this kind is, with its article."""
        return {"ingest": "an ingest role", "serve": "a serve role"}.get(self, f"a {self}")


class Target(StrEnum):
    """What a privilege is on; in the order in which statements are printed."""

    DATABASE = "DATABASE"
    SCHEMA = "SCHEMA"
    TABLE = "TABLE"
    SEQUENCE = "SEQUENCE"
    FUNCTION = "FUNCTION"
    NEW_TABLES = "NEW TABLES"


class Privilege(NamedTuple):
    """One privilege on one object.

    ``name`` is a database, a schema, or a schema and what is in it; for new tables it is their schema. ``column`` is
    empty for the whole table.
    """

    target: Target
    name: tuple[str, ...]
    action: str
    column: str = ""

    def __str__(self) -> str:
        column = f" ({self.column})" if self.column else ""
        if self.target is Target.NEW_TABLES:
            return f"{self.action} on new tables in {self.name[0]}"
        kind = "" if self.target is Target.TABLE else f"{self.target.lower()} "
        return f"{self.action}{column} on {kind}{'.'.join(self.name)}"


_SEE = ("SELECT",)
_ADD = ("SELECT", "INSERT")
_CHANGE = ("SELECT", "INSERT", "UPDATE")
_OWN = ("SELECT", "INSERT", "UPDATE", "DELETE")

_HEAD = {"eventstore.distributed_head": ("SELECT",), "eventstore.head": ("SELECT",)}
"""What tells where the log ends."""

_STATE = {
    **_HEAD,
    "eventstore.events": _SEE,
    "eventstore.consumers": _SEE,
    "eventstore.cursors": _SEE,
    "eventstore.quarantine_counts": _SEE,
    "eventstore.quarantine_usage": _SEE,
    "eventstore.retried_events": _SEE,
    "eventstore.erasures": _SEE,
    "eventstore.event_positions": _SEE,
    "eventstore.partitions": _SEE,
    "eventstore.archived_partitions": _SEE,
    "projections.alembic_version": _SEE,
    "projections.checkpoints": _SEE,
    "projections.granted_roles": _SEE,
    "projections.rebuilds": _SEE,
    "projections.reconciliations": _SEE,
    "projections.skips": _SEE,
    "public.read_model_freshness": _SEE,
}
"""What status reads, besides the quarantine."""

TABLES: Mapping[RoleKind, Mapping[str, tuple[str, ...]]] = {
    RoleKind.READER: {},
    RoleKind.WORKER: {
        **_STATE,
        "eventstore.erased_events": _SEE,
        "projections.checkpoints": _CHANGE,
        "projections.rebuilds": _CHANGE,
        "projections.reconciliations": ("SELECT", "INSERT", "DELETE"),
        "projections.skips": _OWN,
        "projections_shadow.shadow_positions": _OWN,
    },
    RoleKind.INGEST: {
        **_STATE,
        "eventstore.events": _ADD,
        "eventstore.cursors": _OWN,
        "eventstore.distributed_head": ("SELECT", "UPDATE"),
        "eventstore.quarantine": _OWN,
        "eventstore.quarantine_counts": _CHANGE,
        "eventstore.quarantine_usage": _CHANGE,
        "eventstore.retried_events": _ADD,
        "eventstore.erased_events": _ADD,
    },
    RoleKind.SERVE: {
        **_HEAD,
        "eventstore.events": _SEE,
        "eventstore.archived_partitions": _SEE,
        "projections.alembic_version": _SEE,
    },
    RoleKind.CONSUMER: {
        **_HEAD,
        "eventstore.events": _SEE,
        "eventstore.event_positions": _SEE,
        "eventstore.archived_partitions": _SEE,
        "eventstore.consumers": _OWN,
        "projections.alembic_version": _SEE,
    },
}
"""What each kind may do with the tables of the event store and of the engine."""

# Whoever folds reads why a message was quarantined, not its bytes.
_COLUMNS: Mapping[RoleKind, Mapping[str, tuple[str, ...]]] = {
    RoleKind.WORKER: {"eventstore.quarantine": tuple(c.name for c in quarantine.columns if c.name != "payload")},
}
_SCHEMAS: Mapping[RoleKind, Mapping[str, tuple[str, ...]]] = {
    RoleKind.READER: {"public": ("USAGE",)},
    RoleKind.WORKER: {
        "eventstore": ("USAGE",),
        "projections": ("USAGE",),
        "projections_shadow": ("USAGE", "CREATE"),
        "public": ("USAGE",),
    },
    RoleKind.INGEST: {"eventstore": ("USAGE",), "projections": ("USAGE",), "public": ("USAGE",)},
    RoleKind.SERVE: {"eventstore": ("USAGE",), "projections": ("USAGE",)},
    RoleKind.CONSUMER: {"eventstore": ("USAGE",), "projections": ("USAGE",)},
}
# Folds in one round trip and comparisons need temporary objects.
_DATABASE = {RoleKind.WORKER: ("CONNECT", "TEMPORARY")}
# Ids of rebuilds and of reconciliations.
_SEQUENCES = {RoleKind.WORKER: ("projections.rebuilds_id_seq", "projections.reconciliations_id_seq")}
_FUNCTIONS = {
    RoleKind.WORKER: ("projections.drop_shadow_tables(text[])",),
    RoleKind.INGEST: ("eventstore.make_partitions(bigint)", "eventstore.abandon_partitioning()"),
}

UNSAFE_FUNCTIONS = (
    "eventstore.redecode(jsonb)",
    "eventstore.erase_events(bigint[], text[], bytea[])",
    "eventstore.make_partitions(bigint)",
    "eventstore.abandon_partitioning()",
    "projections.drop_shadow_tables(text[])",
)
"""Functions that run with their owner's rights."""


def privileges_of(
    kind: RoleKind, database: str, read_models: Iterable[str], readable: Iterable[str]
) -> list[Privilege]:
    """Return every privilege of a kind.

    Args:
        kind: the kind.
        database: the database's name.
        read_models: the tables that installed projections fold, in ``public``.
        readable: every table and view of ours in ``public``.

    """
    found = [Privilege(Target.DATABASE, (database,), action) for action in _DATABASE.get(kind, ("CONNECT",))]
    found += [
        Privilege(Target.SCHEMA, (name,), action) for name, actions in _SCHEMAS[kind].items() for action in actions
    ]
    tables = dict(TABLES[kind])
    if kind is RoleKind.WORKER:
        tables |= {f"public.{name}": _OWN for name in read_models}
    if kind is RoleKind.READER:
        tables |= {f"public.{name}": _SEE for name in readable}
        found.append(Privilege(Target.NEW_TABLES, ("public",), "SELECT"))
    for table, actions in tables.items():
        found += [Privilege(Target.TABLE, _parts(table), action) for action in actions]
    for table, columns in _COLUMNS.get(kind, {}).items():
        found += [Privilege(Target.TABLE, _parts(table), "SELECT", column) for column in columns]
    found += [Privilege(Target.SEQUENCE, _parts(name), "USAGE") for name in _SEQUENCES.get(kind, ())]
    found += [Privilege(Target.FUNCTION, _parts(name), "EXECUTE") for name in _FUNCTIONS.get(kind, ())]
    return found


def _parts(name: str) -> tuple[str, ...]:
    schema, _, rest = name.partition(".")
    return schema, rest
