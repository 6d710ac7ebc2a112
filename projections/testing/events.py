"""Creates events for tests, with a default for every field."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from eventstore import ulid
from eventstore.contracts import Contract, Event
from eventstore.contracts.event_types import DECIDERS, EventType

DEFAULT_PPNUM = "12300000001"
"""A phone number that nobody has."""

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_SECONDS = itertools.count()


def event(  # noqa: PLR0913 - an event has that many fields
    event_type: int = EventType.RECIPIENT_DELIVERED,
    *,
    event_id: str | None = None,
    app: str = "app",
    contract: str = Contract.CHAT_EXTERNAL,
    send_request_id: str | None = "request",
    ppnum: str | None = None,
    error_code: str | None = None,
    message_id: str | None = None,
    poll_id: str | None = None,
    poll_options: list[str] | None = None,
    poll_options_dropped: int | None = None,
    summary_status: int | None = None,
    total_recipients: int | None = None,
    delivered: int | None = None,
    failed: int | None = None,
    pending_consent: int | None = None,
    occurred_at: datetime | None = None,
    payload: bytes = b"",
    recipient_created_at: datetime | None = None,
    summary_created_at: datetime | None = None,
    summary_completed_at: datetime | None = None,
) -> Event:
    """Return an event.

    The fields are those of :class:`eventstore.contracts.Event`. Three of them get a value if they are None here:
    ``event_id`` is greater than all that were created before; ``occurred_at`` is the time in the event_id; ``ppnum`` is
    12300000001, unless the event is about a whole request (types 6 and 8). For an event without a recipient, use
    ``event(…)._replace(ppnum=None)``.

    Raises:
        ValueError: the event_id is not an upper-case ULID.

    """
    if event_id is None:
        event_id = ulid.first_ulid_at(_BEGIN + timedelta(seconds=next(_SECONDS)))
    if not ulid.is_ulid(event_id):
        raise ValueError(f"{event_id!r} is not an event_id; give an upper-case ULID")
    if ppnum is None and event_type not in DECIDERS:
        ppnum = DEFAULT_PPNUM
    return Event(
        event_id=event_id,
        app=app,
        contract=str(contract),
        event_type=int(event_type),
        send_request_id=send_request_id,
        ppnum=ppnum,
        error_code=error_code,
        message_id=message_id,
        poll_id=poll_id,
        poll_options=poll_options,
        poll_options_dropped=poll_options_dropped,
        summary_status=summary_status,
        total_recipients=total_recipients,
        delivered=delivered,
        failed=failed,
        pending_consent=pending_consent,
        occurred_at=occurred_at or ulid.time_of(event_id) or _BEGIN,
        payload=payload,
        recipient_created_at=recipient_created_at,
        summary_created_at=summary_created_at,
        summary_completed_at=summary_completed_at,
    )
