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

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Case, Computed, Executable, Index, Table, and_, case, func, or_, select
from sqlalchemy.dialects.postgresql import distinct_on, insert

from eventstore.contracts.event_types import EventType
from projections.projection import Projection, Window
from projections.read_models.common_columns import event_id, key_column, metadata, text, time

_BY_DELIVERY = (
    "delivery_event_id IS NOT NULL AND (consent_event_id IS NULL"
    " OR (consent_status <> 'granted' AND delivery_event_id > consent_event_id))"
)


def _decided(by_delivery: str, by_consent: str) -> Computed:
    return Computed(f"CASE WHEN {_BY_DELIVERY} THEN {by_delivery} ELSE {by_consent} END", persisted=True)


consent_registry = Table(
    "consent_registry",
    metadata,
    key_column("app", "The app."),
    key_column("ppnum", "The person's phone number."),
    text("status", "pending, granted, denied or expired.", _decided("'granted'", "consent_status"), nullable=False),
    text(
        "basis",
        "consent or delivery: the kind of event that decides.",
        _decided("'delivery'", "'consent'"),
        nullable=False,
    ),
    time("decided_at", "When the deciding event happened.", _decided("delivery_at", "consent_at"), nullable=False),
    event_id("event_id", "The deciding event.", _decided("delivery_event_id", "consent_event_id"), nullable=False),
    text(
        "send_request_id",
        "The request that the deciding event names; '' when none.",
        _decided("delivery_request_id", "consent_request_id"),
        nullable=False,
    ),
    time("first_asked_at", "When the person was first asked for consent; NULL when no event says so."),
    text("consent_status", "What the last event about consent says; NULL without one."),
    event_id("consent_event_id", "The last event about consent; NULL without one."),
    time("consent_at", "When it happened."),
    text("consent_request_id", "The request that it names; '' when none."),
    event_id("delivery_event_id", "The last delivery; NULL without one."),
    time("delivery_at", "When it happened."),
    text("delivery_request_id", "The request that it names; '' when none."),
    Index("consent_registry_ppnum_idx", "ppnum"),
    Index("consent_registry_status_idx", "status"),
    comment="May I write to this person, and which event says so?",
)

CONSENT_FAILURES = {"consent_denied": "denied", "consent_expired": "expired"}
"""The error codes of a failed recipient that are consent facts, and the status that they mean."""

_KEY = ("app", "ppnum")


class ConsentRegistry(Projection):
    """Folds consent facts and deliveries."""

    name: ClassVar[str] = "consent_registry"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset(
        {
            EventType.RECIPIENT_DELIVERED,
            EventType.RECIPIENT_FAILED,
            EventType.RECIPIENT_PENDING_CONSENT,
            EventType.CONSENT_GRANTED,
            EventType.CONSENT_DENIED,
        }
    )
    tables: ClassVar[tuple[Table, ...]] = (consent_registry,)
    partition_by: ClassVar[tuple[str, ...]] = _KEY
    decided_by: ClassVar[Mapping[str, str]] = {"consent_registry": "event_id"}

    def fold(self, window: Window) -> Sequence[Executable]:
        """Fold consent facts, then deliveries; each fact is guarded by its own event_id."""
        return _consent_facts(window), _deliveries(window)


def _consent_facts(window: Window) -> Executable:
    e = window.only(*(ConsentRegistry.handles - {EventType.RECIPIENT_DELIVERED}))
    status: Case[str] = case(
        (e.c.event_type == EventType.RECIPIENT_PENDING_CONSENT, "pending"),
        (e.c.event_type == EventType.CONSENT_GRANTED, "granted"),
        (e.c.event_type == EventType.CONSENT_DENIED, "denied"),
        *((e.c.error_code == code, meaning) for code, meaning in CONSENT_FAILURES.items()),
    )
    asked = func.min(e.c.occurred_at).filter(e.c.event_type == EventType.RECIPIENT_PENDING_CONSENT)
    latest = (
        select(
            e.c.app,
            e.c.ppnum,
            asked.over(partition_by=(e.c.app, e.c.ppnum)),
            status,
            e.c.event_id,
            e.c.occurred_at,
            func.coalesce(e.c.send_request_id, ""),
        )
        .ext(distinct_on(e.c.app, e.c.ppnum))
        .where(
            e.c.ppnum != "",
            or_(e.c.event_type != EventType.RECIPIENT_FAILED, e.c.error_code.in_(list(CONSENT_FAILURES))),
        )
        .order_by(e.c.app, e.c.ppnum, e.c.event_id.desc())
    )
    facts = ("consent_status", "consent_event_id", "consent_at", "consent_request_id")
    new = insert(consent_registry).from_select([*_KEY, "first_asked_at", *facts], latest)
    old = consent_registry.c
    newer = or_(old.consent_event_id.is_(None), old.consent_event_id < new.excluded.consent_event_id)
    earlier = and_(
        new.excluded.first_asked_at.is_not(None),
        or_(old.first_asked_at.is_(None), old.first_asked_at > new.excluded.first_asked_at),
    )
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={
            "first_asked_at": func.least(old.first_asked_at, new.excluded.first_asked_at),
            **{name: case((newer, new.excluded[name]), else_=old[name]) for name in facts},
        },
        where=or_(newer, earlier),
    )


def _deliveries(window: Window) -> Executable:
    e = window.only(EventType.RECIPIENT_DELIVERED)
    latest = (
        select(e.c.app, e.c.ppnum, e.c.event_id, e.c.occurred_at, func.coalesce(e.c.send_request_id, ""))
        .ext(distinct_on(e.c.app, e.c.ppnum))
        .where(e.c.ppnum != "")
        .order_by(e.c.app, e.c.ppnum, e.c.event_id.desc())
    )
    facts = ("delivery_event_id", "delivery_at", "delivery_request_id")
    new = insert(consent_registry).from_select([*_KEY, *facts], latest)
    old = consent_registry.c
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={name: new.excluded[name] for name in facts},
        where=or_(old.delivery_event_id.is_(None), old.delivery_event_id < new.excluded.delivery_event_id),
    )
