"""``request_status`` answers what happened to each send request, and to each of its recipients.

``event_type`` decides; the status inside the recipient is ignored. Events without a request are not folded.
To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from sqlalchemy import Index, and_, case, literal_column, or_

from eventstore.contracts.event_types import ABOUT_RECIPIENT, DECIDERS, SUMMARY_FAILED, EventType
from projections.blocks import BlockProjection, count, event, greatest, key, latest, least, rows
from projections.read_models.common_columns import DECIDED_BY, OUTCOME, REQUEST, metadata

_created = "When the platform created the recipient, the earliest time stated; NULL when none is."
_first = "When the earliest event that reports a status of the recipient happened."
_delivered = "When the earliest event that reports the delivery happened; NULL without one."
recipients = rows(
    "request_recipients",
    *REQUEST,
    key("ppnum", comment="The recipient's phone number."),
    *OUTCOME,
    latest("message_id", comment="The platform's id of the message to this recipient."),
    *DECIDED_BY,
    least("created_at", event.recipient_created_at, _created),
    least("first_event_at", event.occurred_at, _first, nullable=True),
    least("delivered_at", event.occurred_at, _delivered, where=event.event_type == EventType.RECIPIENT_DELIVERED),
    Index("request_recipients_ppnum_idx", "ppnum"),
    of=ABOUT_RECIPIENT,
    comment="What happened to each recipient of each request.",
    metadata=metadata,
)
request_recipients = recipients.table

_status = request_recipients.c.status
_decider = latest.of(*DECIDERS)
_has_failed = or_(event.event_type == EventType.REQUEST_FAILED, event.summary_status == SUMMARY_FAILED)
_state = case((_has_failed, "failed"), else_="completed")
_created_at = case(
    (event.event_type.in_(DECIDERS), event.summary_created_at),
    (and_(event.event_type.in_(ABOUT_RECIPIENT), event.ppnum != ""), event.recipient_created_at),
)
_request_created = (
    "When the request was created, the earliest time that a summary or recipient states; NULL when none does."
)
requests = rows(
    "request_status",
    *REQUEST,
    _decider("state", _state, "in_progress, completed or failed.", default="in_progress"),
    count("recipients", comment="Recipients whose status at least one event reports."),
    count("delivered", _status == "delivered", "Of these, delivered."),
    count("failed", _status == "failed", "Of these, failed."),
    count("pending_consent", _status == "pending_consent", "Of these, waiting for consent."),
    _decider("reported_total", event.total_recipients, "Recipients, as reported by the deciding event's summary."),
    _decider("reported_delivered", event.delivered, "Delivered, as reported by that summary."),
    _decider("reported_failed", event.failed, "Failed, as reported by that summary."),
    _decider("reported_pending_consent", event.pending_consent, "Waiting for consent, as reported by that summary."),
    least("first_event_at", event.occurred_at, "When the earliest event of the request happened."),
    greatest("last_event_at", event.occurred_at, "When the latest event of the request happened."),
    _decider("completed_at", event.occurred_at, "When the deciding event happened; NULL while in progress."),
    greatest("last_event_id", event.event_id, "The greatest event_id of the request."),
    _decider("decided_event_id", event.event_id, "The event that decides the state; NULL while in progress."),
    least("created_at", _created_at, _request_created),
    Index("request_status_state_idx", "state"),
    Index("request_status_day_idx", literal_column("((first_event_at AT TIME ZONE 'UTC')::date)")),
    Index("request_status_first_event_idx", "app", "first_event_at"),
    of=EventType,
    counting=recipients,
    comment="What happened to each send request.",
    metadata=metadata,
)
request_status = requests.table


class RequestStatus(BlockProjection):
    """Folds every event that names a request."""

    name, version, blocks = "request_status", 2, (recipients, requests)
