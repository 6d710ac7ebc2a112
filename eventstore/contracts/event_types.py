"""The known event types, by their numbers on the wire; they mean the same in both contracts."""

from __future__ import annotations

from enum import IntEnum


class EventType(IntEnum):
    """The type of an event."""

    RECIPIENT_DELIVERED = 1
    RECIPIENT_FAILED = 2
    RECIPIENT_PENDING_CONSENT = 3
    CONSENT_GRANTED = 4
    CONSENT_DENIED = 5
    REQUEST_COMPLETED = 6
    POLL_RESPONSE_RECEIVED = 7
    REQUEST_FAILED = 8


KNOWN_TYPES = frozenset(int(known) for known in EventType)
"""The numbers of all known types; events of other types are stored too, and no read model folds them."""
ABOUT_RECIPIENT = (
    EventType.RECIPIENT_DELIVERED,
    EventType.RECIPIENT_FAILED,
    EventType.RECIPIENT_PENDING_CONSENT,
)
DECIDERS = (EventType.REQUEST_COMPLETED, EventType.REQUEST_FAILED)
SUMMARY_FAILED = 4
"""The summary status that makes a completed request a failed one."""
