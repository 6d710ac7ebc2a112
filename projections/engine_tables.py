"""The engine's own tables, as the migrations create them: checkpoints, skips and rebuilds."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, OID

SCHEMA = "projections"

metadata = MetaData(schema=SCHEMA)

_time = DateTime(timezone=True)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Text, primary_key=True, comment="The projection."),
    Column("version", Integer, nullable=False, comment="The version whose rows the read model holds."),
    Column("position", BigInteger, nullable=False, comment="Every event up to here is folded."),
    Column("state", Text, nullable=False, comment="running, paused, waiting (for a rebuild) or failed."),
    Column("last_error", Text, comment="What last went wrong; NULL while it is well."),
    Column("last_error_at", _time, comment="When it went wrong."),
    Column("failures", Integer, nullable=False, server_default=text("0"), comment="Failures in a row."),
    Column("retry_at", _time, comment="When a failed projection is tried again; NULL for at once."),
    Column("windows", BigInteger, nullable=False, server_default=text("0"), comment="Windows folded so far."),
    Column("events", BigInteger, nullable=False, server_default=text("0"), comment="Events passed so far."),
    Column("folded_at", _time, comment="When the last window was folded."),
    Column("fold_seconds", Double, comment="How long the last window took."),
    Column(
        "redecoded_at",
        _time,
        comment="When columns of folded events were read otherwise; NULL when none were, or rebuilt since.",
    ),
    CheckConstraint("position >= 0", name="checkpoints_position_check"),
    CheckConstraint("version >= 0", name="checkpoints_version_check"),
    CheckConstraint("state IN ('running', 'paused', 'waiting', 'failed')", name="checkpoints_state_check"),
    CheckConstraint("failures >= 0", name="checkpoints_failures_check"),
    schema=SCHEMA,
    comment="How far each projection is. The row is also the lock: who holds it folds.",
)

skips = Table(
    "skips",
    metadata,
    Column("name", Text, primary_key=True, comment="The projection that passes over the event."),
    Column("event_id", Text(collation="C"), primary_key=True, comment="The event passed over."),
    Column(
        "version",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="The version of the projection that this holds for.",
    ),
    Column("why", Text, nullable=False, comment="Why, in the words of who decided it."),
    Column("skipped_at", _time, nullable=False, comment="When it was decided."),
    CheckConstraint("octet_length(event_id) = 26", name="skips_event_id_check"),
    CheckConstraint("version > 0", name="skips_version_check"),
    schema=SCHEMA,
    comment="Events that a projection passes over, by somebody's decision.",
)

rebuilds = Table(
    "rebuilds",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="A number to name the rebuild by."),
    Column("name", Text, nullable=False, comment="The projection."),
    Column("version", Integer, nullable=False, comment="The version of the code that rebuilt."),
    Column("fingerprint", Text, nullable=False, comment="Of the code, its tables and the events passed over."),
    Column("holder", Text, nullable=False, comment="The session at work; it is gone when the rebuild is over."),
    Column("state", Text, nullable=False, comment="running, done, refused, failed, or abandoned by a killed process."),
    Column("dry_run", Boolean, nullable=False, comment="Whether the difference was only shown."),
    Column("position", BigInteger, nullable=False, comment="Every event up to here is in the rebuilt tables."),
    Column("started_at", _time, nullable=False, comment="When it began."),
    Column("finished_at", _time, comment="When it was over."),
    Column("rows_before", BigInteger, comment="Rows of the read model when it was compared."),
    Column("rows_added", BigInteger, comment="Rows that it lacked."),
    Column("rows_removed", BigInteger, comment="Rows that it had too many."),
    Column("rows_changed", BigInteger, comment="Rows that were otherwise."),
    Column("fold_seconds", Double, comment="How long the events were folded."),
    Column("compare_seconds", Double, comment="How long the tables were compared."),
    Column("apply_seconds", Double, comment="How long the checkpoint was held to apply the difference."),
    Column("error", Text, comment="Why it came to nothing; NULL when it didn't."),
    Column(
        "into_schema", Text, comment="The schema that it made, of an as-of rebuild; NULL for the read model itself."
    ),
    Column("into_schema_oid", OID, comment="That schema's oid: one of the same name that others make is not ours."),
    Column(
        "into_table_oids",
        ARRAY(OID),
        comment="The oids of the tables that it made there; NULL in rows of before that was noted.",
    ),
    CheckConstraint("position >= 0", name="rebuilds_position_check"),
    CheckConstraint("state IN ('running', 'done', 'refused', 'failed', 'abandoned')", name="rebuilds_state_check"),
    Index("rebuilds_name_idx", "name"),
    schema=SCHEMA,
    comment="What each rebuild did, or is doing.",
)
