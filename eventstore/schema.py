"""The event store's tables, as the migrations make them.

Alembic alone creates the schema in a database. Statements are built from these definitions, and a test checks that both
are equal.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "eventstore"

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

_time = DateTime(timezone=True)
_KNOWN_CONTRACT = "contract IN ('chat.external', 'pcs.external.v1')"
# More values than a range of 8 pages has events, so that a filter of one range is right about 99.9 of 100 values.
_BLOOM = "text_bloom_ops (n_distinct_per_range=256, false_positive_rate=0.001)"
_ULID = "event_id ~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$'"

events = Table(
    "events",
    metadata,
    Column("event_id", Text(collation="C"), primary_key=True, comment="ULID of the event, upper case: its identity."),
    Column(
        "position",
        BigInteger,
        nullable=False,
        unique=True,
        comment="Commit order in this database: 1, 2, 3 and so on, no number missing.",
    ),
    Column("app", Text, nullable=False, comment="The app on whose stream it was received."),
    Column(
        "contract",
        Text,
        nullable=False,
        comment="The contract it was received under: chat.external or pcs.external.v1.",
    ),
    Column(
        "event_type",
        Integer,
        nullable=False,
        comment="The type's number in the contract; the view event_log shows its name.",
    ),
    Column("send_request_id", Text, comment="The request that it names; NULL when it names none."),
    Column(
        "ppnum",
        Text,
        comment="The recipient's phone number, or an erased person's token; NULL when the event has no recipient.",
    ),
    Column("error_code", Text, comment="Why delivery failed, in the platform's words."),
    Column("message_id", Text, comment="The platform's id of the message to this recipient."),
    Column("poll_id", Text, comment="The poll answered; '' when not stated, NULL when there is no readable answer."),
    Column("poll_options", ARRAY(Text), comment="The options chosen; NULL when there is no readable answer."),
    Column(
        "summary_status", Integer, comment="The summary's status, as a number of the contract; NULL without a summary."
    ),
    Column("total_recipients", Integer, comment="Recipients, as the summary reports them."),
    Column("delivered", Integer, comment="Delivered, as the summary reports it."),
    Column("failed", Integer, comment="Failed, as the summary reports it."),
    Column("pending_consent", Integer, comment="Waiting for consent, as the summary reports it."),
    Column("occurred_at", _time, nullable=False, comment="When it happened upstream; the ULID's time when not stated."),
    Column(
        "received_at",
        _time,
        nullable=False,
        comment="When it was appended here; never decreases as position increases.",
    ),
    Column(
        "payload",
        LargeBinary,
        nullable=False,
        comment="The exact bytes of the event, as received (an erased person's are encoded anew): the source of truth.",
    ),
    Column(
        "poll_options_dropped",
        Integer,
        comment="How many options of the answer could not be kept in poll_options; NULL when none is missing.",
    ),
    Column(
        "recipient_created_at",
        _time,
        comment="When the platform created the recipient's status, as the event states it; NULL when not stated"
        " or not readable.",
    ),
    Column(
        "summary_created_at",
        _time,
        comment="When the request was created, as the summary states it; NULL when not stated or not readable.",
    ),
    Column(
        "summary_completed_at",
        _time,
        comment="When the request was completed, as the summary states it; NULL when not stated or not readable.",
    ),
    # These cost COPY about a hundredth. The whole shape of a ULID would cost a third, and is checked before.
    CheckConstraint("position > 0", name="position"),
    CheckConstraint("octet_length(event_id) = 26", name="event_id"),
    CheckConstraint(_KNOWN_CONTRACT, name="contract"),
    Index(None, "app", "position"),
    # Few events are of these kinds; to count them, or to fold polls, must not read all the others.
    Index("events_without_request_idx", "position", postgresql_where=text("send_request_id IS NULL")),
    Index("events_poll_responses_idx", "position", postgresql_where=text("event_type = 7")),
    Index("events_of_unknown_type_idx", "position", postgresql_where=text("event_type < 1 OR event_type > 8")),
    Index("events_poll_options_dropped_idx", "position", postgresql_where=text("poll_options_dropped IS NOT NULL")),
    # Finds the events of one person or one request, and may be dropped; see eventstore/event_search.py.
    Index(
        "events_person_request_idx",
        "ppnum",
        "send_request_id",
        postgresql_using="brin",
        postgresql_ops={"ppnum": _BLOOM, "send_request_id": _BLOOM},
        postgresql_with={"pages_per_range": 8},
    ),
    schema=SCHEMA,
    comment="Every event, as received but for erased persons. Append-only: UPDATE, DELETE and TRUNCATE are refused.",
)

cursors = Table(
    "cursors",
    metadata,
    Column("app", Text, primary_key=True, comment="The app that is followed."),
    Column("contract", Text, comment="The upstream's contract; NULL until the first stream that succeeds decides it."),
    Column("last_event_id", Text(collation="C"), comment="The cursor: the last event_id received, stored or not."),
    Column("last_received_at", _time, comment="When the cursor last moved."),
    Column(
        "holes",
        JSONB,
        nullable=False,
        server_default=text("'[]'::jsonb"),
        comment="Gaps that the upstream could not replay: a list of {lower, upper, noticed_at, detail, position}.",
    ),
    Column("epoch", BigInteger, nullable=False, server_default=text("0"), comment="Increases with each new follower."),
    Column(
        "fence",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Fencing token: each cursor move writes a new random number and must name the previous one.",
    ),
    Column(
        "went_back",
        JSONB,
        nullable=False,
        server_default=text("'[]'::jsonb"),
        comment="Commits that the database lost (failover, restore): a list of {noticed_at, from, to}. Anyone who read"
        ' beyond position "to" must read again from there.',
    ),
    Column("last_error", Text, comment="The upstream's last error; NULL while it works."),
    Column("last_error_at", _time, comment="When that error occurred."),
    Column("refused_at", _time, comment="Since when the platform or issuer has refused the app; NULL unless refused."),
    Column("retry_at", _time, comment="When a refused app is retried; NULL for never, or while the retry runs."),
    Column(
        "reset_to",
        Text(collation="C"),
        comment="After a reset: the ULID to start from; NULL to start like a new app.",
    ),
    Column(
        "reset_position",
        BigInteger,
        comment="Head of the log at the last reset: only events stored after it decide where to resume;"
        " NULL without a reset.",
    ),
    CheckConstraint(_KNOWN_CONTRACT, name="contract"),
    CheckConstraint(f"last_{_ULID}", name="last_event_id"),
    CheckConstraint("jsonb_typeof(holes) = 'array'", name="holes"),
    CheckConstraint("jsonb_typeof(went_back) = 'array'", name="went_back"),
    CheckConstraint("epoch >= 0", name="epoch"),
    schema=SCHEMA,
    comment="One row for each followed app: where its stream resumes.",
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, comment="The row's number."),
    Column("app", Text, nullable=False, comment="The app on whose stream it was received."),
    Column("contract", Text, nullable=False, comment="The contract it was received under."),
    Column(
        "sha256", LargeBinary, nullable=False, comment="SHA-256 of the payload; random bytes if the payload was erased."
    ),
    Column("event_id", Text(collation="C"), comment="The message's ULID, if one could be read."),
    Column("reason", Text, nullable=False, comment="Why the message can't be an event."),
    Column("payload", LargeBinary, nullable=False, comment="The exact bytes, as received; empty if they were erased."),
    Column("first_seen", _time, nullable=False, comment="When these bytes were first received."),
    Column("last_seen", _time, nullable=False, comment="When these bytes were last received."),
    Column("count", BigInteger, nullable=False, comment="How often these bytes were received."),
    Column(
        "is_sample",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Kept as a sample while the quarantine was full; deleted to make room for newer samples.",
    ),
    Column("erased_at", _time, comment="When the payload was erased with a person; NULL if it is there."),
    UniqueConstraint("app", "contract", "sha256"),
    Index("quarantine_erased_idx", "app", "contract", "event_id", postgresql_where=text("erased_at IS NOT NULL")),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    CheckConstraint("count > 0", name="count"),
    schema=SCHEMA,
    comment="Messages that can't be events, exactly as received, up to a limit for each app.",
)

quarantine_counts = Table(
    "quarantine_counts",
    metadata,
    Column("app", Text, primary_key=True, comment="The app on whose stream they were received."),
    Column("reason", Text, primary_key=True, comment="Why they can't be events."),
    Column("messages", BigInteger, nullable=False, comment="Messages received, kept or not, repetitions included."),
    Column(
        "not_kept",
        BigInteger,
        nullable=False,
        comment="Messages whose bytes were not kept because the quarantine was full.",
    ),
    Column("first_seen", _time, nullable=False, comment="When the first of them was received."),
    Column("last_seen", _time, nullable=False, comment="When the last of them was received."),
    Column(
        "last_sample_at", _time, comment="When a sample was last kept while the quarantine was full; NULL for never."
    ),
    schema=SCHEMA,
    comment="How many messages were quarantined, by app and reason: exact, however many of them were kept.",
)

quarantine_usage = Table(
    "quarantine_usage",
    metadata,
    Column("app", Text, primary_key=True, comment="The app that is followed."),
    Column(
        "kept_rows", BigInteger, nullable=False, server_default=text("0"), comment="Rows kept, not counting samples."
    ),
    Column(
        "kept_bytes",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Bytes of the payloads of these rows.",
    ),
    Column(
        "counted_at",
        _time,
        comment="When both were last counted from the table quarantine; NULL to have them counted next time.",
    ),
    Column("full_since", _time, comment="Since when the quarantine has been full; NULL while there is room."),
    schema=SCHEMA,
    comment="How much of each app's quarantine is used; the table quarantine itself is the source of truth.",
)

retried_events = Table(
    "retried_events",
    metadata,
    Column("event_id", Text(collation="C"), primary_key=True, comment="The event that the message became."),
    Column("app", Text, nullable=False, comment="The app on whose stream it was received."),
    Column("reason", Text, nullable=False, comment="Why the message was quarantined."),
    Column("first_seen", _time, nullable=False, comment="When these bytes were first received."),
    Column("last_seen", _time, nullable=False, comment="When these bytes were last received."),
    Column("retried_at", _time, nullable=False, comment="When a retry stored the event."),
    CheckConstraint("octet_length(event_id) = 26", name="event_id"),
    schema=SCHEMA,
    comment="Events that were quarantined when they were received, and that a retry stored later. They don't decide"
    " where a stream resumes.",
)

change_permits = Table(
    "change_permits",
    metadata,
    Column(
        "transaction",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="The id of the transaction that may change events.",
    ),
    Column("purpose", Text, nullable=False, comment="The function that wrote the permit: redecode or erase."),
    schema=SCHEMA,
    comment="Transactions that may change events: the function that changes events writes a permit and deletes it,"
    " so the table is empty between transactions.",
)

consumers = Table(
    "consumers",
    metadata,
    Column("name", Text, primary_key=True, comment="The name that the program gives to its consumer."),
    Column(
        "position",
        BigInteger,
        nullable=False,
        comment="The checkpoint: every event up to here was handed out and acknowledged.",
    ),
    Column(
        "event_id",
        Text(collation="C"),
        comment="The event at that position, to notice a log that was replaced; NULL at position 0.",
    ),
    Column(
        "epoch",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Raised by each process that takes over; only its holder moves the checkpoint.",
    ),
    Column(
        "attempts",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="How often the batch after the checkpoint was handed out; 0 while it has not been.",
    ),
    Column("handed_out_at", _time, comment="When that batch was last handed out; NULL while it has not been."),
    Column(
        "events",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Events that were handed out and acknowledged, since the consumer was created.",
    ),
    Column("moved_at", _time, comment="When the checkpoint last moved; NULL for never."),
    Column("created_at", _time, nullable=False, comment="When the consumer first ran."),
    CheckConstraint("octet_length(name) BETWEEN 1 AND 63", name="name"),
    CheckConstraint("position >= 0", name="position"),
    CheckConstraint("(event_id IS NULL) = (position = 0)", name="event_id"),
    CheckConstraint("attempts >= 0", name="attempts"),
    schema=SCHEMA,
    comment="How far each named consumer is: a program that reads events for something other than a read model.",
)

erasures = Table(
    "erasures",
    metadata,
    Column(
        "id",
        BigInteger,
        Identity(always=True),
        primary_key=True,
        comment="The erasure's number: the greatest one tells which erasures the log has.",
    ),
    Column("token", Text, nullable=False, unique=True, comment="What stands in place of the person's phone number."),
    Column("app", Text, comment="The app in which the person was erased; NULL for every app."),
    Column("erased_at", _time, nullable=False, comment="When the person was erased."),
    Column("why", Text, nullable=False, comment="The reason given to projections erase."),
    Column("erased_by", Text, nullable=False, comment="Who ran it: the database role and the system user."),
    Column("position", BigInteger, nullable=False, comment="The head of the log then."),
    Column("mac", LargeBinary, comment="HMAC-SHA-256 of the number under the erasure key; NULL if there was no key."),
    Column("key_check", LargeBinary, comment="Tells whether a key is the one of mac; NULL without a mac."),
    Column(
        "rows",
        JSONB,
        nullable=False,
        comment="How many rows of the person were changed: an object with a number for each table.",
    ),
    Column(
        "awaited",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether events of the person may still be received that were erased before, as after a restore.",
    ),
    Column(
        "applied",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="Whether the person's events in this log are erased; false until projections erase --again did it.",
    ),
    CheckConstraint("token ~ '^erased:[0-7][0-9A-HJKMNP-TV-Z]{25}$'", name="token"),
    CheckConstraint("(mac IS NULL) = (key_check IS NULL)", name="key_check"),
    CheckConstraint("mac IS NULL OR octet_length(mac) = 32", name="mac"),
    CheckConstraint("jsonb_typeof(rows) = 'object'", name="rows"),
    Index("erasures_mac_idx", "mac", postgresql_where=text("mac IS NOT NULL")),
    Index("erasures_awaited_idx", "id", postgresql_where=text("awaited")),
    Index("erasures_not_applied_idx", "id", postgresql_where=text("NOT applied")),
    schema=SCHEMA,
    comment="Persons who were erased: one row for each, without the phone number.",
)

erased_events = Table(
    "erased_events",
    metadata,
    Column("event_id", Text(collation="C"), primary_key=True, comment="The event."),
    Column("token", Text, nullable=False, comment="The token of the person whose event it is."),
    CheckConstraint("octet_length(event_id) = 26", name="event_id"),
    schema=SCHEMA,
    comment="Events of erased persons. One that is received again is a duplicate, whatever its bytes.",
)

partitions = Table(
    "partitions",
    metadata,
    Column("name", Text, primary_key=True, comment="The partition: a table of this schema."),
    Column("first_position", BigInteger, nullable=False, comment="The first position that belongs into it."),
    Column("last_position", BigInteger, nullable=False, unique=True, comment="The last position that belongs into it."),
    Column("made_at", _time, nullable=False, comment="When it was made."),
    Column(
        "has_key",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether it has a key on event_id; if not, the ids of its events are in event_ids.",
    ),
    Column(
        "least_event_id",
        Text(collation="C"),
        comment="No id in it is less than this; NULL while it has none, and without a key.",
    ),
    Column(
        "greatest_event_id",
        Text(collation="C"),
        comment="No id in it is greater than this; NULL while it has none, and without a key.",
    ),
    CheckConstraint("0 < first_position AND first_position <= last_position", name="positions"),
    schema=SCHEMA,
    comment="The partitions of the log; empty while eventstore.events is one table.",
)

event_ids = Table(
    "event_ids",
    metadata,
    Column("event_id", Text(collation="C"), primary_key=True, comment="The event."),
    Column("position", BigInteger, nullable=False, comment="Its position in the log."),
    schema=SCHEMA,
    comment="The ids of events before the first partition with a key: archived ones, and those of partitions that an"
    " earlier version made. Empty while the log is one table.",
)

event_ids_up_to = Table(
    "event_ids_up_to",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="Always 1: there is one position."),
    Column("position", BigInteger, nullable=False, comment="Nothing up to here has an id that occurs twice."),
    Column("event_id", Text(collation="C"), comment="The event at that position; NULL while there is none."),
    CheckConstraint("id = 1", name="id"),
    CheckConstraint("position >= 0", name="position"),
    schema=SCHEMA,
    comment="Up to which position the ids of a partitioned log were checked; without a row, the log is one table.",
)

archived_partitions = Table(
    "archived_partitions",
    metadata,
    Column("first", BigInteger, primary_key=True, autoincrement=False, comment="The first position in the file."),
    Column("last", BigInteger, nullable=False, comment="The last position in the file."),
    Column("events", BigInteger, nullable=False, comment="How many events the file has: one for each position."),
    Column("first_event_id", Text(collation="C"), nullable=False, comment="The event at the first position."),
    Column("last_event_id", Text(collation="C"), nullable=False, comment="The event at the last position."),
    Column("first_received_at", _time, nullable=False, comment="When the first of them was received."),
    Column("last_received_at", _time, nullable=False, comment="When the last of them was received."),
    Column("file", Text, nullable=False, comment="The name of the file, without its folder."),
    Column("file_bytes", BigInteger, nullable=False, comment="The size of the file."),
    Column("sha256", LargeBinary, nullable=False, comment="SHA-256 of the file."),
    Column("parquet_file", Text, comment="The name of the Parquet file; NULL without one."),
    Column("parquet_bytes", BigInteger, comment="The size of the Parquet file; NULL without one."),
    Column("parquet_sha256", LargeBinary, comment="SHA-256 of the Parquet file; NULL without one."),
    Column(
        "erasure",
        BigInteger,
        nullable=False,
        comment="The greatest id of the erasures that the files have; 0 for none.",
    ),
    Column("archived_at", _time, nullable=False, comment="When the files were complete and compared with the events."),
    Column("archived_by", Text, nullable=False, comment="Who ran it: the database role and the system user."),
    Column("dropped_at", _time, comment="When the partition was dropped; NULL while its events are still in the log."),
    Column(
        "to_delete",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="Earlier files that an erasure replaced and that must still be deleted.",
    ),
    CheckConstraint("first > 0", name="first"),
    CheckConstraint("last = first + events - 1", name="last"),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    CheckConstraint(
        "(parquet_file IS NULL) = (parquet_sha256 IS NULL) AND (parquet_file IS NULL) = (parquet_bytes IS NULL)",
        name="parquet_file",
    ),
    schema=SCHEMA,
    comment="Partitions of the event table that projections archive wrote to files: which positions are where.",
)

distributed_head = Table(
    "distributed_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="Always 1: there is one head."),
    Column("position", BigInteger, nullable=False, comment="The head of the log: its last position, or 0."),
    Column("received_at", _time, comment="When the last event was appended; NULL while there is none."),
    Column("event_id", Text(collation="C"), comment="The last event; NULL while there is none."),
    Column(
        "events_changed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether stored events were changed, and a server may not have committed it yet.",
    ),
    CheckConstraint("id = 1", name="id"),
    CheckConstraint("position >= 0", name="position"),
    schema=SCHEMA,
    comment="The head of a log that Citus distributes over several servers; without a row, it isn't distributed.",
)
