"""Columns for the times inside a recipient and a summary.

The columns are empty for stored events until ``projections redecode`` fills them from the payloads. Adding them reads
no row and locks the table only for a moment.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

COLUMNS = {
    "recipient_created_at": (
        "When the platform created the recipient's status, as the event states it; NULL when not stated"
        " or not readable."
    ),
    "summary_created_at": (
        "When the request was created, as the summary states it; NULL when not stated or not readable."
    ),
    "summary_completed_at": (
        "When the request was completed, as the summary states it; NULL when not stated or not readable."
    ),
}

EVENT_LOG = """
CREATE OR REPLACE VIEW eventstore.event_log AS
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
       total_recipients, delivered, failed, pending_consent, occurred_at, received_at, payload,
       poll_options_dropped{more}
FROM eventstore.events
"""
NEW_EVENT_LOG = EVENT_LOG.format(more=", " + ", ".join(COLUMNS))

# With its owner's rights: whoever may execute it may redecode, and needs no right on the tables.
REDECODE = """
CREATE OR REPLACE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    changed bigint;
BEGIN
    INSERT INTO eventstore.change_permits (transaction, purpose) VALUES (this_transaction, 'redecode');
    UPDATE eventstore.events AS e
    SET event_type = d.event_type, send_request_id = d.send_request_id, ppnum = d.ppnum, error_code = d.error_code,
        message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,
        poll_options_dropped = d.poll_options_dropped,
        summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
        failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at,
        recipient_created_at = d.recipient_created_at, summary_created_at = d.summary_created_at,
        summary_completed_at = d.summary_completed_at
    FROM jsonb_to_recordset(decoded) AS d (
        position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
        poll_id text, poll_options text[], poll_options_dropped integer, summary_status integer,
        total_recipients integer,
        delivered integer, failed integer, pending_consent integer, occurred_at timestamptz,
        recipient_created_at timestamptz, summary_created_at timestamptz, summary_completed_at timestamptz
    )
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    DELETE FROM eventstore.change_permits WHERE transaction = this_transaction;
    RETURN changed;
END
$$
"""
# What the function has more than that of revision 0007.
_MORE = (
    """,
        recipient_created_at = d.recipient_created_at, summary_created_at = d.summary_created_at,
        summary_completed_at = d.summary_completed_at""",
    """,
        recipient_created_at timestamptz, summary_created_at timestamptz, summary_completed_at timestamptz""",
)

READ_COMMENTS = """
SELECT a.attname, coalesce(col_description(a.attrelid, a.attnum), ''), obj_description(a.attrelid, 'pg_class')
FROM pg_attribute AS a WHERE a.attrelid = 'eventstore.event_log'::regclass AND a.attnum > 0
"""


def upgrade() -> None:
    for name, comment in COLUMNS.items():
        op.add_column("events", sa.Column(name, sa.DateTime(timezone=True), comment=comment), schema="eventstore")
    op.execute(REDECODE)
    op.execute(NEW_EVENT_LOG)
    for name, comment in COLUMNS.items():
        op.execute(_comment_on_column(name, comment))


def downgrade() -> None:
    found = op.get_bind().execute(sa.text(READ_COMMENTS)).all()
    op.execute("DROP VIEW eventstore.event_log")
    before = REDECODE
    for more in _MORE:
        before = before.replace(more, "")
    op.execute(before)
    for name in reversed(COLUMNS):
        op.drop_column("events", name, schema="eventstore")
    op.execute(EVENT_LOG.format(more=""))
    op.execute(f"COMMENT ON VIEW eventstore.event_log IS '{_quoted(found[0][2] or '')}'")
    for name, comment, _ in found:
        if name not in COLUMNS:
            op.execute(_comment_on_column(name, comment))


def _comment_on_column(name: str, comment: str) -> str:
    return f"COMMENT ON COLUMN eventstore.event_log.{name} IS '{_quoted(comment)}'"


def _quoted(text: str) -> str:
    return text.replace("'", "''")
