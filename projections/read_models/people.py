"""``people`` answers what became of all the messages to a person: how many arrived, and the last outcome.

``person_requests`` holds the outcome of each request for each person, and ``people`` counts these rows again whenever
one of them may have changed. Beside the counts stands the person's consent, by the same rule as in
``consent_registry``: the last event about consent or the last delivery, whichever has the greater event_id, where a
delivery means ``granted``. So a person of whom only consent is known has a row with counts of 0.

To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sqlalchemy import Index

from eventstore.contracts.event_types import ABOUT_RECIPIENT, EventType
from projections.blocks import BlockProjection, count, event, key, latest, rows
from projections.read_models.common_columns import (
    CONSENT_STATUS,
    DECIDED_BY,
    IS_CONSENT_FACT,
    OUTCOME,
    PERSON,
    metadata,
)

outcomes = rows(
    "person_requests",
    key("app", comment="The app whose request it is."),
    PERSON,
    key("send_request_id", comment="The request."),
    *OUTCOME,
    *DECIDED_BY,
    of=ABOUT_RECIPIENT,
    comment="What happened to each person in each request; the rows that the table people counts.",
    metadata=metadata,
)
person_requests = outcomes.table

_of = person_requests.c
_consent = latest.of(*ABOUT_RECIPIENT, EventType.CONSENT_GRANTED, EventType.CONSENT_DENIED, where=IS_CONSENT_FACT)
_outcome_comment = (
    "delivered, failed or pending_consent: what the last event about any of these requests reports; NULL without a"
    " request."
)
_last_comment = "That event: the greatest event_id that reports an outcome; NULL without a request."
_status_comment = "pending, granted, denied or expired, as in consent_registry; NULL when no event says so."
_consent_comment = "The last event about consent or the last delivery, whichever is newer."
persons = rows(
    "people",
    key("app", comment="The app."),
    PERSON,
    count("requests", comment="Requests that report a status of the person as a recipient."),
    count("delivered", _of.status == "delivered", "Of these, delivered."),
    count("failed", _of.status == "failed", "Of these, failed."),
    count("pending_consent", _of.status == "pending_consent", "Of these, waiting for consent."),
    latest("last_outcome", _of.status, _outcome_comment, nullable=True),
    latest("last_error_code", _of.error_code, "The error code of that event: why it failed, in the platform's words."),
    latest("last_outcome_at", _of.last_event_at, "When that event happened."),
    latest("last_event_id", _of.last_event_id, _last_comment),
    _consent("consent_status", CONSENT_STATUS, _status_comment),
    _consent("consent_event_id", event.event_id, _consent_comment),
    Index("people_ppnum_idx", "ppnum"),
    counting=outcomes,
    comment="What became of all messages to each person, and the person's consent.",
    metadata=metadata,
)
people = persons.table


class People(BlockProjection):
    """Folds outcomes of recipients, consent facts and deliveries."""

    name, version, blocks = "people", 1, (outcomes, persons)
    decided_by: ClassVar[Mapping[str, str]] = {"people": "last_event_id"}
