"""``people`` answers what became of all the messages to a person: how many arrived, and the last outcome.

``person_requests`` holds the outcome of each request for each person, and ``people`` counts these rows again whenever
one of them may have changed. Beside the counts stands the person's consent, by the same rule as in
``consent_registry``: the last event about consent or the last delivery, whichever has the greater event_id, where a
delivery means ``granted``. So a person of whom only consent is known has a row with counts of 0.

To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import (
    Case,
    Executable,
    Index,
    Table,
    Text,
    and_,
    case,
    cast,
    func,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from eventstore.contracts.event_types import ABOUT_RECIPIENT, EventType
from projections.projection import Projection, Window
from projections.read_models.common_columns import (
    CONSENT_FAILURES,
    count_column,
    event_id,
    key_column,
    metadata,
    text,
    time,
)

person_requests = Table(
    "person_requests",
    metadata,
    key_column("app", "The app whose request it is."),
    key_column("ppnum", "The person's phone number."),
    key_column("send_request_id", "The request."),
    text(
        "status",
        "delivered, failed or pending_consent: from the event with the greatest event_id that reports one.",
        nullable=False,
    ),
    text("error_code", "The error code of the deciding event: why it failed, in the platform's words."),
    event_id("last_event_id", "The event that decides the row.", nullable=False),
    time("last_event_at", "When that event happened.", nullable=False),
    comment="What happened to each person in each request; the rows that the table people counts.",
)

people = Table(
    "people",
    metadata,
    key_column("app", "The app."),
    key_column("ppnum", "The person's phone number."),
    count_column("requests", "Requests that report a status of the person as a recipient."),
    count_column("delivered", "Of these, delivered."),
    count_column("failed", "Of these, failed."),
    count_column("pending_consent", "Of these, waiting for consent."),
    text(
        "last_outcome",
        "delivered, failed or pending_consent: what the last event about any of these requests reports; NULL without"
        " a request.",
    ),
    text("last_error_code", "The error code of that event: why it failed, in the platform's words."),
    time("last_outcome_at", "When that event happened."),
    event_id("last_event_id", "That event: the greatest event_id that reports an outcome; NULL without a request."),
    text(
        "consent_status",
        "pending, granted, denied or expired, as in consent_registry; NULL when no event says so.",
    ),
    event_id("consent_event_id", "The last event about consent or the last delivery, whichever is newer."),
    Index("people_ppnum_idx", "ppnum"),
    comment="What became of all messages to each person, and the person's consent.",
)

_ULID_LENGTH = 26
_KEY = ("app", "ppnum")
_COUNTS = ("requests", "delivered", "failed", "pending_consent")
_LAST = ("last_outcome", "last_error_code", "last_outcome_at", "last_event_id")
_CONSENT = ("consent_status", "consent_event_id")


class People(Projection):
    """Folds outcomes of recipients, consent facts and deliveries."""

    name: ClassVar[str] = "people"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset(
        {*ABOUT_RECIPIENT, EventType.CONSENT_GRANTED, EventType.CONSENT_DENIED}
    )
    tables: ClassVar[tuple[Table, ...]] = (person_requests, people)
    partition_by: ClassVar[tuple[str, ...]] = _KEY
    decided_by: ClassVar[Mapping[str, str]] = {"person_requests": "last_event_id", "people": "last_event_id"}

    def fold(self, window: Window) -> Sequence[Executable]:
        """Fold the outcomes of requests, then the touched people."""
        return _outcomes(window), _people(window)


def _outcomes(window: Window) -> Executable:
    e = window.only(*ABOUT_RECIPIENT)
    status = case(
        (e.c.event_type == EventType.RECIPIENT_DELIVERED, "delivered"),
        (e.c.event_type == EventType.RECIPIENT_FAILED, "failed"),
        else_="pending_consent",
    )
    key = (e.c.app, e.c.ppnum, e.c.send_request_id)
    latest = (
        select(*key, status, e.c.error_code, e.c.event_id, e.c.occurred_at)
        .ext(distinct_on(*key))
        .where(e.c.send_request_id != "", e.c.ppnum != "")
        .order_by(*key, e.c.event_id.desc())
    )
    new = insert(person_requests).from_select([column.name for column in person_requests.c], latest)
    return new.on_conflict_do_update(
        index_elements=[*_KEY, "send_request_id"],
        set_={column.name: new.excluded[column.name] for column in person_requests.c if not column.primary_key},
        where=person_requests.c.last_event_id < new.excluded.last_event_id,
    )


def _people(window: Window) -> Executable:
    # Outcomes and consent go through one sort, because a join could get a bad plan, and so that a person's row is
    # written once in a window. Of each person the sort puts the last outcome first; consent is in none of these rows.
    r = person_requests.c
    outcomes = select(
        r.app,
        r.ppnum,
        r.status,
        r.error_code,
        r.last_event_at,
        r.last_event_id,
        cast(null(), Text).label("consent"),
    ).where(window.touched(person_requests, _KEY))
    both = union_all(outcomes, _consent(window)).subquery("outcomes_and_consent").c
    last = both.last_event_id.collate("C").desc().nulls_last()
    # Over the order of DISTINCT ON, so that one sort serves both.
    of_person: dict[str, Any] = {"partition_by": (both.app, both.ppnum), "order_by": last, "rows": (None, None)}
    counts = [func.count().filter(both.status == status) for status in ("delivered", "failed", "pending_consent")]
    consent = func.max(both.consent.collate("C")).over(**of_person)
    values = (
        *(both.app, both.ppnum),
        *(counted.over(**of_person) for counted in (func.count(both.status), *counts)),
        *(both.status, both.error_code, both.last_event_at, both.last_event_id),
        *(func.substr(consent, _ULID_LENGTH + 1), func.left(consent, _ULID_LENGTH)),
    )
    rows = select(*values).ext(distinct_on(both.app, both.ppnum)).order_by(both.app, both.ppnum, last)
    new = insert(people).from_select([*_KEY, *_COUNTS, *_LAST, *_CONSENT], rows)
    old = people.c
    newer = and_(
        new.excluded.consent_event_id.is_not(None),
        or_(old.consent_event_id.is_(None), old.consent_event_id < new.excluded.consent_event_id),
    )
    recounted = {name: new.excluded[name] for name in (*_COUNTS, *_LAST)}
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={**recounted, **{name: case((newer, new.excluded[name]), else_=old[name]) for name in _CONSENT}},
        where=or_(newer, *(old[name].is_distinct_from(recounted[name]) for name in (*_COUNTS, "last_event_id"))),
    )


def _consent(window: Window) -> Any:  # noqa: ANN401 - SQLAlchemy's type of a select names every column
    """Return the window's consent facts and deliveries; ``consent`` is the event_id, and behind it the status.

    An event_id always has 26 characters, so the greatest of these texts is the one with the greatest event_id.
    """
    e = window.events
    status: Case[str] = case(
        (e.c.event_type == EventType.RECIPIENT_DELIVERED, "granted"),
        (e.c.event_type == EventType.RECIPIENT_PENDING_CONSENT, "pending"),
        (e.c.event_type == EventType.CONSENT_GRANTED, "granted"),
        (e.c.event_type == EventType.CONSENT_DENIED, "denied"),
        *((e.c.error_code == code, meaning) for code, meaning in CONSENT_FAILURES.items()),
    )
    no_outcome = [cast(null(), column.type) for column in (people.c.last_outcome, people.c.last_error_code)]
    return select(
        e.c.app,
        e.c.ppnum,
        *no_outcome,
        cast(null(), people.c.last_outcome_at.type),
        cast(null(), Text),
        e.c.event_id + status,
    ).where(
        e.c.ppnum != "",
        or_(e.c.event_type != EventType.RECIPIENT_FAILED, e.c.error_code.in_(list(CONSENT_FAILURES))),
    )
