"""The view ``public.event_log``: the log without payloads, for those who may read only the schema ``public``."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# A view runs with its owner's rights, so its readers need none on the schema eventstore.
EVENT_LOG = """
CREATE OR REPLACE VIEW public.event_log AS
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
       send_request_id, ppnum, error_code, message_id, recipient_created_at,
       poll_id, poll_options, poll_options_dropped,
       summary_status, total_recipients, delivered, failed, pending_consent, summary_created_at, summary_completed_at,
       occurred_at, received_at
FROM eventstore.events
"""

COMMENT = "Every event that was received, decoded, in the order of position; eventstore.event_log has the payload too."
COLUMN_COMMENTS = {
    "position": "Commit order in this database: 1, 2, 3 and so on, no number missing.",
    "event_id": "ULID of the event: its identity.",
    "app": "The app on whose stream it was received.",
    "contract": "The contract it was received under: chat.external or pcs.external.v1.",
    "event_type": "The type's number in the contract.",
    "event_type_name": "The type's name; UNKNOWN_n for a number n that this version doesn't know.",
    "send_request_id": "The request that it names; NULL when it names none.",
    "ppnum": "The recipient's phone number; NULL when the event has no recipient.",
    "error_code": "Why delivery failed, in the platform's words.",
    "message_id": "The platform's id of the message to this recipient.",
    "recipient_created_at": (
        "When the platform created the recipient's status, as the event states it; NULL when not stated"
        " or not readable."
    ),
    "poll_id": "The poll answered; '' when not stated, NULL when there is no readable answer.",
    "poll_options": "The options chosen; NULL when there is no readable answer.",
    "poll_options_dropped": (
        "How many options of the answer could not be kept in poll_options; NULL when none is missing."
    ),
    "summary_status": "The summary's status, as a number of the contract; NULL without a summary.",
    "total_recipients": "Recipients, as the summary reports them.",
    "delivered": "Delivered, as the summary reports it.",
    "failed": "Failed, as the summary reports it.",
    "pending_consent": "Waiting for consent, as the summary reports it.",
    "summary_created_at": (
        "When the request was created, as the summary states it; NULL when not stated or not readable."
    ),
    "summary_completed_at": (
        "When the request was completed, as the summary states it; NULL when not stated or not readable."
    ),
    "occurred_at": "When it happened upstream; the ULID's time when not stated.",
    "received_at": "When it was appended here; never decreases as position increases.",
}


def upgrade() -> None:
    op.execute(EVENT_LOG)
    _comment("VIEW public.event_log", COMMENT)
    for name, comment in COLUMN_COMMENTS.items():
        _comment(f"COLUMN public.event_log.{name}", comment)


def downgrade() -> None:
    op.execute("DROP VIEW public.event_log")


def _comment(what: str, comment: str) -> None:
    quoted = comment.replace("'", "''")
    op.execute(f"COMMENT ON {what} IS '{quoted}'")
