"""``consent_registry`` answers whether I may write to a person, and which event says so.

Each row keeps two facts about a person, each from the greatest event_id of its kind: the last event about consent (the
consent fact) and the last delivery. The consent fact decides. The delivery decides instead if there is no consent fact,
or if the consent fact isn't ``granted`` and the delivery is newer. A delivery means consent, because the platform
delivers only with consent, and ``pcs.external.v1`` has no other event for it. Postgres computes the deciding columns
from the facts in the same row, so they can't contradict them.

To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sqlalchemy import Index, Text, func

from eventstore.contracts.event_types import EventType
from projections.blocks import BlockProjection, computed, event, key, latest, rows
from projections.blocks.block_columns import ComputedColumn, Type
from projections.read_models.common_columns import CONSENT_STATUS, IS_CONSENT_FACT, PERSON, metadata

_consent = latest.of(
    EventType.RECIPIENT_FAILED,
    EventType.RECIPIENT_PENDING_CONSENT,
    EventType.CONSENT_GRANTED,
    EventType.CONSENT_DENIED,
    where=IS_CONSENT_FACT,
)
_delivery = latest.of(EventType.RECIPIENT_DELIVERED)
_request = func.coalesce(event.send_request_id, "")
_request_comment = "The request that the deciding event names; '' when none."
_is_asked = event.event_type == EventType.RECIPIENT_PENDING_CONSENT
_asked_comment = "When the person was first asked for consent; NULL when no event says so."
_BY_DELIVERY = (
    "delivery_event_id IS NOT NULL AND (consent_event_id IS NULL"
    " OR (consent_status <> 'granted' AND delivery_event_id > consent_event_id))"
)


def _decided(name: str, by_delivery: str, by_consent: str, comment: str, type_: Type = Text) -> ComputedColumn:
    sql = f"CASE WHEN {_BY_DELIVERY} THEN {by_delivery} ELSE {by_consent} END"
    return computed(name, type_, sql, comment, nullable=False)


consents = rows(
    "consent_registry",
    key("app", comment="The app."),
    PERSON,
    _decided("status", "'granted'", "consent_status", "pending, granted, denied or expired."),
    _decided("basis", "'delivery'", "'consent'", "consent or delivery: the kind of event that decides."),
    _decided("decided_at", "delivery_at", "consent_at", "When the deciding event happened.", event.occurred_at.type),
    _decided("event_id", "delivery_event_id", "consent_event_id", "The deciding event.", event.event_id.type),
    _decided("send_request_id", "delivery_request_id", "consent_request_id", _request_comment),
    _consent.least("first_asked_at", event.occurred_at, _asked_comment, where=_is_asked),
    _consent("consent_status", CONSENT_STATUS, "What the last event about consent says; NULL without one."),
    _consent("consent_event_id", event.event_id, "The last event about consent; NULL without one."),
    _consent("consent_at", event.occurred_at, "When it happened."),
    _consent("consent_request_id", _request, "The request that it names; '' when none."),
    _delivery("delivery_event_id", event.event_id, "The last delivery; NULL without one."),
    _delivery("delivery_at", event.occurred_at, "When it happened."),
    _delivery("delivery_request_id", _request, "The request that it names; '' when none."),
    Index("consent_registry_ppnum_idx", "ppnum"),
    Index("consent_registry_status_idx", "status"),
    comment="May I write to this person, and which event says so?",
    metadata=metadata,
)
consent_registry = consents.table


class ConsentRegistry(BlockProjection):
    """Folds consent facts and deliveries."""

    name, version, blocks = "consent_registry", 1, (consents,)
    decided_by: ClassVar[Mapping[str, str]] = {"consent_registry": "event_id"}
