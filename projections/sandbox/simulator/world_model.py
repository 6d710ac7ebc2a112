"""What a simulated world is made of: requests, recipients, and what happens to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from eventstore.contracts import Contract


class EventType(IntEnum):
    """What happened; the numbers are the wire's."""

    DELIVERED = 1
    FAILED = 2
    PENDING_CONSENT = 3
    CONSENT_GRANTED = 4
    CONSENT_DENIED = 5
    REQUEST_COMPLETED = 6
    POLL_RESPONSE = 7
    REQUEST_FAILED = 8


class RecipientState(IntEnum):
    """How a recipient stands; the numbers are the wire's."""

    PENDING = 1
    DELIVERED = 2
    PENDING_CONSENT = 3
    FAILED = 4


class RequestState(IntEnum):
    """How a request stands; the numbers are the wire's."""

    PROCESSING = 2
    COMPLETED = 3
    FAILED = 4


class Behaviour(StrEnum):
    """How a number answers what is sent to it."""

    DELIVERS = "delivers"
    CONSENTS = "consents"
    DENIES = "denies"
    FAILS = "fails"
    EXPIRES = "expires"


SANDBOX = {
    "12300000001": Behaviour.DELIVERS,
    "12300000002": Behaviour.CONSENTS,
    "12300000003": Behaviour.DENIES,
    "12300000004": Behaviour.FAILS,
}
"""The vendor's test numbers; they behave so in every request, whatever was before."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A question that goes out with a request; ``entropy`` becomes the random part of its ULID."""

    entropy: bytes
    options: tuple[str, ...]
    multiple: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One send request. ``sent_at`` is in milliseconds of the world's own time, which begins at 0."""

    entropy: bytes
    sent_at: int
    total: int
    poll: Poll | None


@dataclass(frozen=True, slots=True)
class Recipient:
    """One number within one request; the entropies become the random parts of its ULID and of its message's."""

    ppnum: str
    entropy: bytes
    message_entropy: bytes


@dataclass(frozen=True, slots=True)
class Summary:
    """What a request's last event counts."""

    state: RequestState
    delivered: int
    pending_consent: int
    failed: int


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens, ``at`` milliseconds of the world's own time.

    ``only`` names the one contract that has an event for it; None: both have.
    """

    at: int
    event_type: EventType
    request: Request
    entropy: bytes
    recipient: Recipient | None = None
    state: RecipientState = RecipientState.PENDING
    error_code: str | None = None
    answer: tuple[str, ...] | None = None
    summary: Summary | None = None
    only: Contract | None = None
