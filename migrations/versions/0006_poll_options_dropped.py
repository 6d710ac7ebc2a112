"""Count the options of poll answers that could not be kept in columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COUNTED = "How many options of the answer could not be kept in poll_options; NULL when none is missing."

EVENT_LOG = """
{create} VIEW eventstore.event_log AS
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
       total_recipients, delivered, failed, pending_consent, occurred_at, received_at, payload{more}
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

REDECODE = """
CREATE OR REPLACE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE eventstore.events AS e
    SET event_type = d.event_type, send_request_id = d.send_request_id, ppnum = d.ppnum, error_code = d.error_code,
        message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,{counted}
        summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
        failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at
    FROM jsonb_to_recordset(decoded) AS d (
        position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
        poll_id text, poll_options text[],{typed} summary_status integer, total_recipients integer, delivered integer,
        failed integer, pending_consent integer, occurred_at timestamptz
    )
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$
"""

NEW_REDECODE = REDECODE.format(
    counted="\n        poll_options_dropped = d.poll_options_dropped,", typed=" poll_options_dropped integer,"
)
NEW_EVENT_LOG = EVENT_LOG.format(create="CREATE OR REPLACE", more=", poll_options_dropped")


def upgrade() -> None:
    op.add_column("events", sa.Column("poll_options_dropped", sa.Integer(), comment=COUNTED), schema="eventstore")
    op.create_index(
        "events_poll_options_dropped_idx",
        "events",
        ["position"],
        schema="eventstore",
        postgresql_where=sa.text("poll_options_dropped IS NOT NULL"),
    )
    op.execute(NEW_REDECODE)
    op.execute(NEW_EVENT_LOG)
    op.execute(f"COMMENT ON COLUMN eventstore.event_log.poll_options_dropped IS '{COUNTED}'")


def downgrade() -> None:
    op.execute("DROP VIEW eventstore.event_log")
    op.execute(REDECODE.format(counted="", typed=""))
    op.drop_index("events_poll_options_dropped_idx", "events", schema="eventstore")
    op.drop_column("events", "poll_options_dropped", schema="eventstore")
    op.execute(EVENT_LOG.format(create="CREATE", more=""))
    op.execute("COMMENT ON VIEW eventstore.event_log IS 'The events, with the names of their types.'")
    for name, comment in VIEW_COLUMNS.items():
        quoted = comment.replace("'", "''")
        op.execute(f"COMMENT ON COLUMN eventstore.event_log.{name} IS '{quoted}'")
