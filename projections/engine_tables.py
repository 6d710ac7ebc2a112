"""The engine's own tables, as the migrations create them: checkpoints, skips, rebuilds, reconciliations, and more."""

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
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, OID

SCHEMA = "projections"

SHADOW_POSITIONS_DDL = (
    "CREATE UNLOGGED TABLE IF NOT EXISTS projections_shadow.shadow_positions (projection text PRIMARY KEY,"
    " run bigint NOT NULL, version integer NOT NULL, fingerprint text NOT NULL, position bigint NOT NULL)"
)
"""Creates the table of the shadows' positions; whoever makes the first shadow does, or a grant to a worker."""

metadata = MetaData(schema=SCHEMA)

_time = DateTime(timezone=True)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Text, primary_key=True, comment="The projection."),
    Column("version", Integer, nullable=False, comment="The version whose rows the read model holds."),
    Column("position", BigInteger, nullable=False, comment="Every event up to here is folded."),
    Column("state", Text, nullable=False, comment="running, paused, waiting (for a rebuild) or failed."),
    Column("last_error", Text, comment="The last error; NULL while it works."),
    Column("last_error_at", _time, comment="When that error occurred."),
    Column("failures", Integer, nullable=False, server_default=text("0"), comment="Consecutive failures."),
    Column("retry_at", _time, comment="When a failed projection is retried; NULL for immediately."),
    Column("windows", BigInteger, nullable=False, server_default=text("0"), comment="Windows folded so far."),
    Column("events", BigInteger, nullable=False, server_default=text("0"), comment="Events processed so far."),
    Column("folded_at", _time, comment="When the last window was folded."),
    Column("fold_seconds", Double, comment="How long the last window took."),
    Column(
        "redecoded_at",
        _time,
        comment="When redecode or erase last changed events that this projection had folded: it needs a rebuild;"
        " NULL if never, or rebuilt since.",
    ),
    CheckConstraint("position >= 0", name="checkpoints_position_check"),
    CheckConstraint("version >= 0", name="checkpoints_version_check"),
    CheckConstraint("state IN ('running', 'paused', 'waiting', 'failed')", name="checkpoints_state_check"),
    CheckConstraint("failures >= 0", name="checkpoints_failures_check"),
    schema=SCHEMA,
    comment="How far each projection is. The row is also the lock: whoever locks it may fold.",
)

skips = Table(
    "skips",
    metadata,
    Column("name", Text, primary_key=True, comment="The projection that skips the event."),
    Column("event_id", Text(collation="C"), primary_key=True, comment="The skipped event."),
    Column(
        "version",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="The version of the projection that skips it.",
    ),
    Column("why", Text, nullable=False, comment="The reason given to projections skip."),
    Column("skipped_at", _time, nullable=False, comment="When the skip was recorded."),
    CheckConstraint("octet_length(event_id) = 26", name="skips_event_id_check"),
    CheckConstraint("version > 0", name="skips_version_check"),
    schema=SCHEMA,
    comment="Events that a projection skips because somebody decided so.",
)

rebuilds = Table(
    "rebuilds",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="The run's number."),
    Column("name", Text, nullable=False, comment="The projection."),
    Column("version", Integer, nullable=False, comment="The projection's version in the code that ran it."),
    Column("fingerprint", Text, nullable=False, comment="Digest of the code, the tables and the skipped events."),
    Column("holder", Text, nullable=False, comment="application_name of the session that ran it."),
    Column("state", Text, nullable=False, comment="running, done, refused, failed, or abandoned by a killed process."),
    Column("dry_run", Boolean, nullable=False, comment="Whether the difference was only reported, not applied."),
    Column("position", BigInteger, nullable=False, comment="Every event up to here is in the rebuilt tables."),
    Column("started_at", _time, nullable=False, comment="When it started."),
    Column("finished_at", _time, comment="When it ended; NULL while it runs."),
    Column("rows_before", BigInteger, comment="Rows of the read model when it was compared."),
    Column("rows_added", BigInteger, comment="Rows added (missing in the read model)."),
    Column("rows_removed", BigInteger, comment="Rows removed (not produced by the log)."),
    Column("rows_changed", BigInteger, comment="Rows that differed and were changed."),
    Column("fold_seconds", Double, comment="How long folding the events took."),
    Column("compare_seconds", Double, comment="How long comparing the tables took."),
    Column("apply_seconds", Double, comment="How long the checkpoint was locked to apply the difference."),
    Column("error", Text, comment="Why it failed or was refused; NULL otherwise."),
    Column(
        "into_schema", Text, comment="The schema that an as-of created; NULL for a rebuild of the read model itself."
    ),
    Column(
        "into_schema_oid",
        OID,
        comment="Oid of that schema, to tell it from a schema of the same name created by somebody else.",
    ),
    Column(
        "into_table_oids",
        ARRAY(OID),
        comment="Oids of the tables that an as-of created; NULL otherwise, and for runs before this was recorded.",
    ),
    Column("slices", Integer, comment="Slices into which the log was divided; NULL if it was folded window by window."),
    Column("slices_folded", Integer, comment="How many of them are folded."),
    CheckConstraint("position >= 0", name="rebuilds_position_check"),
    CheckConstraint("state IN ('running', 'done', 'refused', 'failed', 'abandoned')", name="rebuilds_state_check"),
    Index("rebuilds_name_idx", "name"),
    schema=SCHEMA,
    comment="What each rebuild or as-of did, or is doing.",
)

reconciliations = Table(
    "reconciliations",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="The row's number."),
    Column("run", BigInteger, nullable=False, comment="The run of projections reconcile; the rows of a run share it."),
    Column("started_at", _time, nullable=False, comment="When the run started."),
    Column("app", Text, nullable=False, comment="The app whose request it is."),
    Column("send_request_id", Text, nullable=False, comment="The request that the upstream was asked about."),
    Column("why", Text, nullable=False, comment="gap (a recorded gap may hide events of it) or unfinished."),
    Column("asked_at", _time, nullable=False, comment="When the upstream answered, or could not be asked."),
    Column(
        "verdict",
        Text,
        nullable=False,
        comment="equal; behind (the upstream knows more); differs (both contradict each other); unknown_upstream (the"
        " upstream has no such request); or not_asked.",
    ),
    Column("reason", Text, comment="Why the upstream could not be asked; NULL otherwise."),
    Column("upstream_state", Text, comment="The upstream's state: queued, processing, completed, failed or unknown."),
    Column("upstream_total", BigInteger, comment="Recipients, as the upstream's summary counts them."),
    Column("upstream_delivered", BigInteger, comment="Of these, delivered."),
    Column("upstream_failed", BigInteger, comment="Of these, failed."),
    Column("upstream_pending_consent", BigInteger, comment="Of these, waiting for consent."),
    Column("our_state", Text, comment="The state in request_status."),
    Column("our_recipients", BigInteger, comment="Recipients in request_status."),
    Column("our_delivered", BigInteger, comment="Of these, delivered."),
    Column("our_failed", BigInteger, comment="Of these, failed."),
    Column("our_pending_consent", BigInteger, comment="Of these, waiting for consent."),
    Column(
        "recipients_that_differ",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="How many recipients have another status upstream than in request_recipients.",
    ),
    Column(
        "differing_recipients",
        JSONB,
        nullable=False,
        server_default=text("'[]'::jsonb"),
        comment="The first thousand of them: a list of {ppnum, upstream, ours}; null where one side has none, and for a"
        " number that may be an erased person's.",
    ),
    UniqueConstraint("run", "app", "send_request_id", name="reconciliations_run_app_send_request_id_key"),
    CheckConstraint("why IN ('gap', 'unfinished')", name="reconciliations_why_check"),
    CheckConstraint(
        "verdict IN ('equal', 'behind', 'differs', 'unknown_upstream', 'not_asked')",
        name="reconciliations_verdict_check",
    ),
    CheckConstraint("recipients_that_differ >= 0", name="reconciliations_recipients_that_differ_check"),
    CheckConstraint("jsonb_typeof(differing_recipients) = 'array'", name="reconciliations_differing_recipients_check"),
    Index("reconciliations_request_idx", "app", "send_request_id"),
    schema=SCHEMA,
    comment="What the upstream answered about requests whose events may be missing, compared with the read models."
    " The last 30 runs are kept.",
)

granted_roles = Table(
    "granted_roles",
    metadata,
    Column("role", Text, primary_key=True, comment="The role of the database server."),
    Column("kind", Text, primary_key=True, comment="What it may do: reader, worker, ingest, serve or consumer."),
    Column("granted_at", _time, nullable=False, comment="When projections grant first granted it."),
    CheckConstraint("kind IN ('reader', 'worker', 'ingest', 'serve', 'consumer')", name="granted_roles_kind_check"),
    schema=SCHEMA,
    comment="Roles that projections grant gave privileges; migrate grants them on the tables that it creates.",
)

views = Table(
    "views",
    metadata,
    Column("name", Text, primary_key=True, comment="The view, in schema public."),
    Column("projection", Text, nullable=False, comment="The projection that it belongs to."),
    schema=SCHEMA,
    comment="Views of users' projections, which migrate created and may replace or drop.",
)
