"""What the quarantine commands write as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from eventstore.contracts import Event
from eventstore.quarantined.message_fields import MessageReading
from eventstore.quarantined.messages import QuarantinedMessage, ReasonCount
from eventstore.quarantined.retry import RetryResult


class QuarantinedReason(TypedDict):
    """The messages of an app that were quarantined for one reason.

    Attributes:
        app: the app.
        reason: the reason.
        received: how many were ever received, repetitions included.
        kept: how many different ones are in quarantine now.
        kept_bytes: the bytes of these.
        not_kept: how many were only counted, because the quarantine was full.
        first_received: when the first one was received.
        last_received: when the last one was received.

    """

    app: str
    reason: str
    received: int
    kept: int
    kept_bytes: int
    not_kept: int
    first_received: datetime
    last_received: datetime


class ListedMessage(TypedDict):
    """A message in quarantine.

    Attributes:
        id: its number.
        app: the app on whose stream it was received.
        contract: the contract it was received under.
        event_id: its ULID; null if none could be read.
        reason: why it can't be an event.
        bytes: how many bytes it has.
        times: how often it was received.
        first_received: when it was first received.
        last_received: when it was last received.
        sample: whether it was kept as a sample while the quarantine was full.
        sha256: SHA-256 of its bytes, in hexadecimal; random if they were erased.
        erased_at: when its bytes were erased with a person; null if they are there.

    """

    id: int
    app: str
    contract: str
    event_id: str | None
    reason: str
    bytes: int
    times: int
    first_received: datetime
    last_received: datetime
    sample: bool
    sha256: str
    erased_at: datetime | None


class QuarantinePage(TypedDict):
    """The quarantine: all reasons, and a page of the kept messages.

    Attributes:
        reasons: the numbers by app and reason.
        messages: the kept messages of this page.
        next_after: what ``--after`` takes for the next page; null if there is none.

    """

    reasons: list[QuarantinedReason]
    messages: list[ListedMessage]
    next_after: int | None


class ShownField(TypedDict):
    """A field that can be read.

    Attributes:
        at: where it begins in the bytes.
        path: its name, such as ``recipient.ppnum``; ``?9`` for a number that isn't known.
        value: its value as text.

    """

    at: int
    path: str
    value: str


class ShownMessage(ListedMessage):
    """Everything about a message in quarantine.

    Attributes:
        id: its number.
        app: the app on whose stream it was received.
        contract: the contract it was received under.
        event_id: its ULID; null if none could be read.
        reason: why it was quarantined.
        bytes: how many bytes it has.
        times: how often it was received.
        first_received: when it was first received.
        last_received: when it was last received.
        sample: whether it was kept as a sample while the quarantine was full.
        sha256: SHA-256 of its bytes, in hexadecimal; random if they were erased.
        erased_at: when its bytes were erased with a person; null if they are there.
        decodes_now: whether it decodes with this version.
        reason_now: why it doesn't decode with this version; null if it does.
        fields: the fields that can be read.
        has_more_fields: whether there are more fields than are shown.
        unreadable_at: where the first bytes begin that are no field; null if there are none.
        personal_data: whether phone numbers are shown.
        payload_hex: its bytes in hexadecimal; those of hidden phone numbers are ``**``.

    """

    decodes_now: bool
    reason_now: str | None
    fields: list[ShownField]
    has_more_fields: bool
    unreadable_at: int | None
    personal_data: bool
    payload_hex: str


class StayingMessage(TypedDict):
    """A message that stays in quarantine.

    Attributes:
        id: its number.
        app: the app on whose stream it was received.
        recorded_reason: why it was quarantined.
        reason: why it can't be stored now.
        can_never_be_stored: whether no decoder can help: another event is stored under its event_id, or its bytes were
            erased.

    """

    id: int
    app: str
    recorded_reason: str
    reason: str
    can_never_be_stored: bool


class RetriedMessages(TypedDict):
    """What a retry did, or would do.

    Attributes:
        dry_run: whether nothing was changed.
        selected: how many messages were chosen.
        stored: how many events were stored, or would be.
        duplicates: how many messages leave the quarantine because their events are stored already.
        gone: how many left it meanwhile, by another command.
        missing: numbers that were given and that no message has.
        still_quarantined: the messages that stay.

    """

    dry_run: bool
    selected: int
    stored: int
    duplicates: int
    gone: int
    missing: list[int]
    still_quarantined: list[StayingMessage]


class WrittenMessages(TypedDict):
    """A file of quarantined messages.

    Attributes:
        file: its name.
        messages: how many messages it has.
        bytes: the bytes of these, before they are encoded.

    """

    file: str
    messages: int
    bytes: int


class DroppedMessages(TypedDict):
    """What was deleted from the quarantine.

    Attributes:
        dropped: how many messages.
        bytes: the bytes of these.
        missing: numbers that were given and that no message has.

    """

    dropped: int
    bytes: int
    missing: list[int]


def describe_reason_count(each: ReasonCount) -> QuarantinedReason:
    """Return what is written about an app and reason."""
    return {
        "app": each.app,
        "reason": each.reason,
        "received": each.received,
        "kept": each.kept,
        "kept_bytes": each.size,
        "not_kept": each.not_kept,
        "first_received": each.first_seen,
        "last_received": each.last_seen,
    }


def describe_listed_message(message: QuarantinedMessage) -> ListedMessage:
    """Return what is written about a message in a list."""
    return {
        "id": message.id,
        "app": message.app,
        "contract": message.contract,
        "event_id": message.event_id,
        "reason": message.reason,
        "bytes": message.size,
        "times": message.times,
        "first_received": message.first_seen,
        "last_received": message.last_seen,
        "sample": message.is_sample,
        "sha256": message.sha256.hex(),
        "erased_at": message.erased_at,
    }


def describe_message(
    message: QuarantinedMessage, reading: MessageReading, again: Event | str, *, personal_data: bool
) -> ShownMessage:
    """Return everything that is written about a message."""
    return {
        **describe_listed_message(message),
        "decodes_now": isinstance(again, Event),
        "reason_now": again if isinstance(again, str) else None,
        "fields": [{"at": field.at, "path": field.path, "value": field.value} for field in reading.fields],
        "has_more_fields": reading.has_more,
        "unreadable_at": reading.unreadable_at,
        "personal_data": personal_data,
        "payload_hex": reading.hex,
    }


def describe_retry(result: RetryResult, *, dry_run: bool) -> RetriedMessages:
    """Return what is written about a retry."""
    return {
        "dry_run": dry_run,
        "selected": result.selected,
        "stored": result.stored,
        "duplicates": result.duplicates,
        "gone": result.gone,
        "missing": result.missing,
        "still_quarantined": [
            {
                "id": each.id,
                "app": each.app,
                "recorded_reason": each.recorded_reason,
                "reason": each.reason,
                "can_never_be_stored": each.is_forever,
            }
            for each in result.still
        ],
    }
