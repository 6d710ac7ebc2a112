"""The event store: events, cursors, quarantine, and the triggers that keep events as they came."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "eventstore"

REFUSE = """
CREATE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '% on eventstore.events is refused: events stay as they came', TG_OP
        USING ERRCODE = 'modifying_sql_data_not_permitted';
END
$$
"""

# The statement trigger refuses even a change that would touch no row, and TRUNCATE; the row trigger also stands
# where changes come row by row, as in a logical-replication subscriber.
TRIGGERS = (
    """CREATE TRIGGER refuse_change_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON eventstore.events
       FOR EACH STATEMENT EXECUTE FUNCTION eventstore.refuse_change()""",
    """CREATE TRIGGER refuse_change_row BEFORE UPDATE OR DELETE ON eventstore.events
       FOR EACH ROW EXECUTE FUNCTION eventstore.refuse_change()""",
    "ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER refuse_change_statement",
    "ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER refuse_change_row",
)

EVENT_LOG = """
CREATE VIEW eventstore.event_log AS
SELECT position, event_id, app, contract, event_type,
       CASE event_type
           WHEN 0 THEN 'UNSPECIFIED'
           WHEN 1 THEN 'RECIPIENT_DELIVERED'
           WHEN 2 THEN 'RECIPIENT_FAILED'
           WHEN 3 THEN 'RECIPIENT_PENDING_CONSENT'
           WHEN 4 THEN 'CONSENT_GRANTED'
           WHEN 5 THEN 'CONSENT_DENIED'
           WHEN 6 THEN 'REQUEST_COMPLETED'
           WHEN 7 THEN 'POLL_RESPONSE_RECEIVED'
           WHEN 8 THEN 'REQUEST_FAILED'
           ELSE 'UNKNOWN_' || event_type
       END AS event_type_name,
       send_request_id, ppnum, error_code, message_id, poll_id, poll_options, summary_status,
       total_recipients, delivered, failed, pending_consent, occurred_at, received_at, payload
FROM eventstore.events
"""

VIEW_COLUMNS = {
    "position": "Commit order here: 1, 2, 3, without gaps.",
    "event_id": "ULID of the event: its identity.",
    "app": "Whose stream brought it.",
    "contract": "The contract it came under.",
    "event_type": "The wire's number.",
    "event_type_name": "Its name; UNKNOWN_n for a number that we don't know.",
    "send_request_id": "The request it is about; NULL when it names none.",
    "ppnum": "The recipient's phone number; NULL when the event has no recipient.",
    "error_code": "Why delivery failed, in the platform's words.",
    "message_id": "The platform's id of the message to this recipient.",
    "poll_id": "The poll answered; '' when not stated, NULL when there is no readable answer.",
    "poll_options": "The options chosen; NULL when there is no readable answer.",
    "summary_status": "The summary's status, the wire's number; NULL without a summary.",
    "total_recipients": "Recipients, as the summary reports them.",
    "delivered": "Delivered, as the summary reports it.",
    "failed": "Failed, as the summary reports it.",
    "pending_consent": "Waiting for consent, as the summary reports it.",
    "occurred_at": "When it happened upstream; the ULID's time when not stated.",
    "received_at": "When it was appended here; never falls as position rises.",
    "payload": "The exact bytes of the event as they came: the truth.",
}


def upgrade() -> None:
    op.execute("CREATE SCHEMA eventstore")
    op.execute("COMMENT ON SCHEMA eventstore IS 'What arrived, as it came, and where each stream goes on.'")
    time = sa.DateTime(timezone=True)
    op.create_table(
        "events",
        _column("event_id", sa.Text(collation="C"), "ULID of the event, upper case: its identity."),
        _column("position", sa.BigInteger(), "Commit order here: 1, 2, 3, without gaps."),
        _column("app", sa.Text(), "Whose stream brought it."),
        _column("contract", sa.Text(), "The contract it came under: chat.external or pcs.external.v1."),
        _column("event_type", sa.Integer(), "The wire's number; the view event_log shows names."),
        _optional("send_request_id", sa.Text(), "The request it is about; NULL when it names none."),
        _optional("ppnum", sa.Text(), "The recipient's phone number; NULL when the event has no recipient."),
        _optional("error_code", sa.Text(), "Why delivery failed, in the platform's words."),
        _optional("message_id", sa.Text(), "The platform's id of the message to this recipient."),
        _optional(
            "poll_id", sa.Text(), "The poll answered; '' when not stated, NULL when there is no readable answer."
        ),
        _optional(
            "poll_options", postgresql.ARRAY(sa.Text()), "The options chosen; NULL when there is no readable answer."
        ),
        _optional("summary_status", sa.Integer(), "The summary's status, the wire's number; NULL without a summary."),
        _optional("total_recipients", sa.Integer(), "Recipients, as the summary reports them."),
        _optional("delivered", sa.Integer(), "Delivered, as the summary reports it."),
        _optional("failed", sa.Integer(), "Failed, as the summary reports it."),
        _optional("pending_consent", sa.Integer(), "Waiting for consent, as the summary reports it."),
        _column("occurred_at", time, "When it happened upstream; the ULID's time when not stated."),
        _column("received_at", time, "When it was appended here; never falls as position rises."),
        _column("payload", sa.LargeBinary(), "The exact bytes of the event as they came: the truth."),
        sa.PrimaryKeyConstraint("event_id", name="events_pkey"),
        sa.UniqueConstraint("position", name="events_position_key"),
        schema=SCHEMA,
        comment="Every event received, once, as it came. Append-only: UPDATE, DELETE and TRUNCATE are refused.",
    )
    op.create_index("events_app_position_idx", "events", ["app", "position"], schema=SCHEMA)
    op.execute(REFUSE)
    for statement in TRIGGERS:
        op.execute(statement)
    op.execute(EVENT_LOG)
    op.execute("COMMENT ON VIEW eventstore.event_log IS 'The events, with the names of their types.'")
    for name, comment in VIEW_COLUMNS.items():
        quoted = comment.replace("'", "''")
        op.execute(f"COMMENT ON COLUMN eventstore.event_log.{name} IS '{quoted}'")
    op.create_table(
        "cursors",
        _column("app", sa.Text(), "Whose stream is followed."),
        _optional(
            "contract", sa.Text(), "The contract that the upstream speaks; NULL until the first success decides it."
        ),
        _optional("last_event_id", sa.Text(collation="C"), "The cursor: the last event_id received, stored or not."),
        _optional("last_received_at", time, "When the cursor last moved."),
        _column(
            "holes",
            postgresql.JSONB(),
            "Gaps that the upstream could not replay: a list of {lower, upper, noticed_at, detail}.",
            server_default=sa.text("'[]'::jsonb"),
        ),
        _column("epoch", sa.BigInteger(), "Rises with every new follower.", server_default=sa.text("0")),
        _optional("last_error", sa.Text(), "What last went wrong with this upstream; NULL while it is well."),
        _optional("last_error_at", time, "When it went wrong."),
        sa.PrimaryKeyConstraint("app", name="cursors_pkey"),
        schema=SCHEMA,
        comment="One row for each app that is followed: where its stream goes on.",
    )
    op.create_table(
        "quarantine",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="A number to name the row by."
        ),
        _column("app", sa.Text(), "Whose stream brought it."),
        _column("contract", sa.Text(), "The contract it came under."),
        _column("sha256", sa.LargeBinary(), "SHA-256 of the payload."),
        _optional("event_id", sa.Text(collation="C"), "Its ULID, where one could be read."),
        _column("reason", sa.Text(), "Why it can't be an event."),
        _column("payload", sa.LargeBinary(), "The exact bytes as they came."),
        _column("first_seen", time, "When these bytes first came."),
        _column("last_seen", time, "When these bytes last came."),
        _column("count", sa.BigInteger(), "How often these bytes came."),
        sa.PrimaryKeyConstraint("id", name="quarantine_pkey"),
        sa.UniqueConstraint("app", "contract", "sha256", name="quarantine_app_contract_sha256_key"),
        schema=SCHEMA,
        comment="Bytes that came over the wire and can't be an event, kept as they came.",
    )


def downgrade() -> None:
    op.execute("DROP VIEW eventstore.event_log")
    op.drop_table("quarantine", schema=SCHEMA)
    op.drop_table("cursors", schema=SCHEMA)
    op.drop_table("events", schema=SCHEMA)
    op.execute("DROP FUNCTION eventstore.refuse_change()")
    op.execute("DROP SCHEMA eventstore")


def _column(
    name: str, type_: sa.types.TypeEngine[Any], comment: str, server_default: sa.TextClause | None = None
) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=False, comment=comment, server_default=server_default)


def _optional(name: str, type_: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=True, comment=comment)
