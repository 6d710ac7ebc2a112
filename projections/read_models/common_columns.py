"""What the built-in read models share: the metadata of their tables, columns, and what events say about consent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sqlalchemy import Case, ColumnElement, MetaData, case, or_, select

from eventstore.contracts.event_types import EventType
from projections.blocks import event, key, latest
from projections.projection import READ_MODEL_SCHEMA

metadata = MetaData(schema=READ_MODEL_SCHEMA)

VIEW_TABLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "consent_history": ("eventstore.events",),
        "event_log": ("eventstore.events",),
        "poll_results": ("poll_tallies", "poll_responses"),
        "read_model_freshness": ("projections.checkpoints", "eventstore.events"),
    }
)
"""Which tables the views beside the tables read."""
VIEWS = frozenset(VIEW_TABLES)
"""These views; only the migrations create them."""

REQUEST = (key("app", comment="The app whose request it is."), key("send_request_id", comment="The request."))
"""The key of a request."""
PERSON = key("ppnum", comment="The person's phone number.")
"""The part of a key that is a person, whom only an event with a phone number names."""

INCOMPLETE = (
    select(event.poll_options_dropped, event.poll_options)
    .where(event.poll_options_dropped.is_not(None))
    .limit(100_000)
    .subquery("incomplete_answers")
)
"""The events with an answer to a poll that could not be stored completely; of more than 100,000 not all."""

_OUTCOME: Final[Case[str]] = case(
    (event.event_type == EventType.RECIPIENT_DELIVERED, "delivered"),
    (event.event_type == EventType.RECIPIENT_FAILED, "failed"),
    else_="pending_consent",
)
_STATUS = "delivered, failed or pending_consent: from the event with the greatest event_id that reports one."
OUTCOME = (
    latest("status", _OUTCOME, _STATUS, nullable=False),
    latest("error_code", comment="The error code of the deciding event: why it failed, in the platform's words."),
)
"""What the last event about a recipient reports."""
DECIDED_BY = (
    latest("last_event_id", event.event_id, "The event that decides the row."),
    latest("last_event_at", event.occurred_at, "When that event happened."),
)
"""That event."""

CONSENT_FAILURES = {"consent_denied": "denied", "consent_expired": "expired"}
"""The error codes of a failed recipient that are consent facts, and the status that they mean."""
IS_CONSENT_FACT: Final[ColumnElement[bool]] = or_(
    event.event_type != EventType.RECIPIENT_FAILED, event.error_code.in_(list(CONSENT_FAILURES))
)
"""Whether an event of these types is a consent fact, or a delivery, which means consent."""
CONSENT_STATUS: Final[Case[str]] = case(
    (event.event_type == EventType.RECIPIENT_DELIVERED, "granted"),
    (event.event_type == EventType.RECIPIENT_PENDING_CONSENT, "pending"),
    (event.event_type == EventType.CONSENT_GRANTED, "granted"),
    (event.event_type == EventType.CONSENT_DENIED, "denied"),
    *((event.error_code == code, meaning) for code, meaning in CONSENT_FAILURES.items()),
)
"""What it says about consent."""
