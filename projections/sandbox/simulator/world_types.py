"""The data of a simulated world: requests, recipients, and the events that happen to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from eventstore.contracts import Contract
from eventstore.contracts.event_types import EventType


class RecipientState(IntEnum):
    """The states of a recipient; the numbers are those of the contracts."""

    PENDING = 1
    DELIVERED = 2
    PENDING_CONSENT = 3
    FAILED = 4


class RequestState(IntEnum):
    """The states of a request; the numbers are those of the contracts."""

    PROCESSING = 2
    COMPLETED = 3
    FAILED = 4


class Behaviour(StrEnum):
    """What a phone number does with a message."""

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
"""The vendor's test numbers; they do the same in every request, whatever happened before."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A question that is sent with a request; ``entropy`` is the random part of its ULID."""

    entropy: bytes
    options: tuple[str, ...]
    multiple: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One send request; ``sent_at`` is in milliseconds of the world's own time, which starts at 0."""

    entropy: bytes
    sent_at: int
    total: int
    poll: Poll | None


@dataclass(frozen=True, slots=True)
class Recipient:
    """One phone number in one request; the entropies are the random parts of its ULID and its message's ULID."""

    ppnum: str
    entropy: bytes
    message_entropy: bytes


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts in a request's last event."""

    state: RequestState
    delivered: int
    pending_consent: int
    failed: int


@dataclass(frozen=True, slots=True)
class WorldEvent:
    """One event, ``at`` milliseconds of the world's own time.

    ``only`` is the contract that has the event; None: both have it.
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
