"""``request_status`` answers what happened to each send request, and to each of its recipients.

``event_type`` decides; the status inside the recipient is ignored. Events without a request are not folded.

To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import (
    Executable,
    Index,
    Table,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from eventstore.contracts.event_types import ABOUT_RECIPIENT, DECIDERS, KNOWN_TYPES, SUMMARY_FAILED, EventType
from projections.projection import Projection, Window
from projections.read_models.common_columns import count_column, event_id, key_column, metadata, text, time

request_recipients = Table(
    "request_recipients",
    metadata,
    key_column("app", "The app whose request it is."),
    key_column("send_request_id", "The request."),
    key_column("ppnum", "The recipient's phone number."),
    text(
        "status",
        "delivered, failed or pending_consent: from the event with the greatest event_id that reports one.",
        nullable=False,
    ),
    text("error_code", "The error code of the deciding event: why it failed, in the platform's words."),
    text("message_id", "The platform's id of the message to this recipient."),
    event_id("last_event_id", "The event that decides the row.", nullable=False),
    time("last_event_at", "When that event happened.", nullable=False),
    time("created_at", "When the platform created the recipient, the earliest time stated; NULL when none is."),
    time("first_event_at", "When the earliest event that reports a status of the recipient happened."),
    time("delivered_at", "When the earliest event that reports the delivery happened; NULL without one."),
    Index("request_recipients_ppnum_idx", "ppnum"),
    comment="What happened to each recipient of each request.",
)

request_status = Table(
    "request_status",
    metadata,
    key_column("app", "The app whose request it is."),
    key_column("send_request_id", "The request."),
    text("state", "in_progress, completed or failed.", nullable=False),
    count_column("recipients", "Recipients whose status at least one event reports."),
    count_column("delivered", "Of these, delivered."),
    count_column("failed", "Of these, failed."),
    count_column("pending_consent", "Of these, waiting for consent."),
    count_column("reported_total", "Recipients, as reported by the deciding event's summary.", nullable=True),
    count_column("reported_delivered", "Delivered, as reported by that summary.", nullable=True),
    count_column("reported_failed", "Failed, as reported by that summary.", nullable=True),
    count_column("reported_pending_consent", "Waiting for consent, as reported by that summary.", nullable=True),
    time("first_event_at", "When the earliest event of the request happened.", nullable=False),
    time("last_event_at", "When the latest event of the request happened.", nullable=False),
    time("completed_at", "When the deciding event happened; NULL while in progress."),
    event_id("last_event_id", "The greatest event_id of the request.", nullable=False),
    event_id("decided_event_id", "The event that decides the state; NULL while in progress."),
    time(
        "created_at",
        "When the request was created, the earliest time that a summary or recipient states; NULL when none does.",
    ),
    Index("request_status_state_idx", "state"),
    Index("request_status_day_idx", literal_column("((first_event_at AT TIME ZONE 'UTC')::date)")),
    Index("request_status_first_event_idx", "app", "first_event_at"),
    comment="What happened to each send request.",
)

_KEY = ("app", "send_request_id")
_EARLIEST = ("created_at", "first_event_at", "delivered_at")
"""The columns of request_recipients that hold the earliest time of all events, whichever event decides the row."""


class RequestStatus(Projection):
    """Folds every event that names a request."""

    name: ClassVar[str] = "request_status"
    version: ClassVar[int] = 2
    handles: ClassVar[frozenset[int]] = KNOWN_TYPES
    tables: ClassVar[tuple[Table, ...]] = (request_recipients, request_status)
    partition_by: ClassVar[tuple[str, ...]] = _KEY
    decided_by: ClassVar[Mapping[str, str]] = {
        "request_recipients": "last_event_id",
        "request_status": "decided_event_id",
    }

    def fold(self, window: Window) -> Sequence[Executable]:
        """Fold recipients, then the events that decide a request, then the counts of the touched requests."""
        return _recipients(window), _deciders(window), _requests(window)


def _recipients(window: Window) -> Executable:
    e = window.only(*ABOUT_RECIPIENT)
    status = case(
        (e.c.event_type == EventType.RECIPIENT_DELIVERED, "delivered"),
        (e.c.event_type == EventType.RECIPIENT_FAILED, "failed"),
        else_="pending_consent",
    )
    key = (e.c.app, e.c.send_request_id, e.c.ppnum)
    # Over the order of DISTINCT ON, so that one sort serves both.
    of_recipient: dict[str, Any] = {"partition_by": key, "order_by": e.c.event_id.desc(), "rows": (None, None)}
    delivered = func.min(e.c.occurred_at).filter(e.c.event_type == EventType.RECIPIENT_DELIVERED)
    latest = (
        select(
            *key,
            status,
            e.c.error_code,
            e.c.message_id,
            e.c.event_id,
            e.c.occurred_at,
            func.min(e.c.recipient_created_at).over(**of_recipient),
            func.min(e.c.occurred_at).over(**of_recipient),
            delivered.over(**of_recipient),
        )
        .ext(distinct_on(*key))
        .where(e.c.send_request_id != "", e.c.ppnum != "")
        .order_by(*key, e.c.event_id.desc())
    )
    new = insert(request_recipients).from_select([column.name for column in request_recipients.c], latest)
    old = request_recipients.c
    newer = old.last_event_id < new.excluded.last_event_id
    decided = [column.name for column in old if not column.primary_key and column.name not in _EARLIEST]
    earliest = {name: func.least(old[name], new.excluded[name]) for name in _EARLIEST}
    return new.on_conflict_do_update(
        index_elements=["app", "send_request_id", "ppnum"],
        set_={**{name: case((newer, new.excluded[name]), else_=old[name]) for name in decided}, **earliest},
        where=or_(newer, *(old[name].is_distinct_from(time) for name, time in earliest.items())),
    )


def _deciders(window: Window) -> Executable:
    e = window.only(*DECIDERS)
    failed = or_(e.c.event_type == EventType.REQUEST_FAILED, e.c.summary_status == SUMMARY_FAILED)
    values: dict[str, Any] = {
        "app": e.c.app,
        "send_request_id": e.c.send_request_id,
        "state": case((failed, "failed"), else_="completed"),
        # The next statement sets the counts; it finds every request that has a row here.
        "recipients": literal_column("0"),
        "delivered": literal_column("0"),
        "failed": literal_column("0"),
        "pending_consent": literal_column("0"),
        "reported_total": e.c.total_recipients,
        "reported_delivered": e.c.delivered,
        "reported_failed": e.c.failed,
        "reported_pending_consent": e.c.pending_consent,
        "first_event_at": e.c.occurred_at,
        "last_event_at": e.c.occurred_at,
        "completed_at": e.c.occurred_at,
        "last_event_id": e.c.event_id,
        "decided_event_id": e.c.event_id,
    }
    latest = (
        select(*values.values())
        .ext(distinct_on(e.c.app, e.c.send_request_id))
        .where(e.c.send_request_id != "")
        .order_by(e.c.app, e.c.send_request_id, e.c.event_id.desc())
    )
    new = insert(request_status).from_select(list(values), latest)
    decided = ("state", "completed_at", "decided_event_id", *(name for name in values if name.startswith("reported_")))
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={name: new.excluded[name] for name in decided},
        where=or_(
            request_status.c.decided_event_id.is_(None),
            request_status.c.decided_event_id < new.excluded.decided_event_id,
        ),
    )


def _requests(window: Window) -> Executable:
    # Events and recipients go through one aggregation, because a join could get a bad plan.
    e, r = window.events, request_recipients
    created_at = case(
        (e.c.event_type.in_(_numbers(DECIDERS)), e.c.summary_created_at),
        (and_(e.c.event_type.in_(_numbers(ABOUT_RECIPIENT)), e.c.ppnum != ""), e.c.recipient_created_at),
    )
    from_events = select(
        e.c.app,
        e.c.send_request_id,
        e.c.occurred_at,
        created_at.label("created_at"),
        e.c.event_id,
        cast(null(), Text).label("status"),
    ).where(e.c.send_request_id != "")
    from_recipients = select(r.c.app, r.c.send_request_id, null(), null(), null(), r.c.status).where(
        window.touched(r, _KEY)
    )
    both = union_all(from_events, from_recipients).subquery("told_and_known")
    values: dict[str, Any] = {
        "app": both.c.app,
        "send_request_id": both.c.send_request_id,
        "state": literal_column("'in_progress'"),
        "recipients": func.count(both.c.status),
        "delivered": func.count().filter(both.c.status == "delivered"),
        "failed": func.count().filter(both.c.status == "failed"),
        "pending_consent": func.count().filter(both.c.status == "pending_consent"),
        "first_event_at": func.min(both.c.occurred_at),
        "last_event_at": func.max(both.c.occurred_at),
        "last_event_id": func.max(both.c.event_id),
        "created_at": func.min(both.c.created_at),
    }
    groups = (
        select(*values.values())
        .group_by(both.c.app, both.c.send_request_id)
        .having(func.max(both.c.event_id).is_not(None))
    )
    new = insert(request_status).from_select(list(values), groups)
    t = request_status.c
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={
            **{name: new.excluded[name] for name in ("recipients", "delivered", "failed", "pending_consent")},
            "first_event_at": func.least(t.first_event_at, new.excluded.first_event_at),
            "last_event_at": func.greatest(t.last_event_at, new.excluded.last_event_at),
            "last_event_id": func.greatest(t.last_event_id, new.excluded.last_event_id),
            "created_at": func.least(t.created_at, new.excluded.created_at),
        },
    )


def _numbers(types: Sequence[EventType]) -> list[int]:
    return [int(number) for number in types]
