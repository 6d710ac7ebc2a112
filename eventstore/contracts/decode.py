"""Decodes an event from its bytes, with the checks that every message must pass before it is stored."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from google.protobuf.message import DecodeError

from eventstore import ulid
from eventstore.contracts._generated.eventstore import reading_pb2 as reading
from eventstore.contracts.contract import Contract
from eventstore.contracts.event_types import KNOWN_TYPES
from eventstore.contracts.times import EARLIEST, LATEST, read_time
from eventstore.errors import Undecodable

MAX_ID_BYTES = 256
MAX_ERROR_BYTES = 4096
MAX_OPTION_BYTES = 2000
"""An option is part of the primary key of ``poll_tallies``, beside an app and two ids, and Postgres refuses index
entries of more than 2,704 bytes."""
MAX_OPTIONS = 1000
"""How many options of one answer are stored in columns, and so folded. The payload has all of them."""
MAX_OPTIONS_READ = 10 * MAX_OPTIONS
"""How many options of one answer are examined: a message may contain millions that can't be stored."""
MAX_COUNT = 2**31 - 1
MAX_CACHED_TIME_BYTES = 64
"""Longer times are decoded each time, so that a cache of decoded times stays small."""


class Event(NamedTuple):
    """One event: its decoded columns, and its bytes.

    Source: the wire, through :func:`decode`. Fields that the event doesn't have are None. ``event_type`` and
    ``summary_status`` are the numbers on the wire; ``occurred_at`` is in UTC, cut to the microsecond; ``payload`` is
    the unchanged bytes of the ``SendRequestEvent`` (for ``pcs.external.v1`` without the frame around them).

    ``poll_options_dropped`` counts the options of the answer that could not be stored in ``poll_options``; None when
    none is missing. If ``poll_options`` is None too, the whole answer could not be stored (0: its options could not
    even be counted).

    ``recipient_created_at``, ``summary_created_at`` and ``summary_completed_at`` are the times inside the recipient and
    the summary, like ``occurred_at``; None when not stated, and when what is stated can't be read.
    """

    event_id: str
    app: str
    contract: str
    event_type: int
    send_request_id: str | None
    ppnum: str | None
    error_code: str | None
    message_id: str | None
    poll_id: str | None
    poll_options: list[str] | None
    poll_options_dropped: int | None
    summary_status: int | None
    total_recipients: int | None
    delivered: int | None
    failed: int | None
    pending_consent: int | None
    occurred_at: datetime
    payload: bytes
    recipient_created_at: datetime | None = None
    summary_created_at: datetime | None = None
    summary_completed_at: datetime | None = None


_new = tuple.__new__  # Event(…) would pass all columns through a function of 21 arguments, which takes twice as long


def decode(payload: bytes, app: str, contract: Contract) -> Event:
    """Decode an event from its bytes.

    Raises:
        Undecodable: the bytes can't be an event, and must be quarantined with the reason.

    """
    try:
        message = reading.Event.FromString(payload)
    except DecodeError:
        raise Undecodable("the bytes are not a SendRequestEvent", _identity(payload)) from None
    event_id = message.event_id
    if not ulid.is_ulid(event_id):
        raise Undecodable("event_id is not an upper-case ULID")
    send_request_id = message.send_request_id
    ppnum = error_code = message_id = recipient_created_at = None
    if message.HasField("recipient"):
        recipient = message.recipient
        ppnum = recipient.ppnum
        error_code = recipient.error_code if recipient.HasField("error_code") else None
        message_id = recipient.message_id if recipient.HasField("message_id") else None
        recipient_created_at = _time_if_readable(recipient.created_at)
    texts = f"{send_request_id}{ppnum}{error_code}{message_id}"
    if len(texts) > MAX_ID_BYTES or "\0" in texts or not texts.isascii():
        _check_texts(event_id, send_request_id, ppnum, error_code, message_id)
    summary_status = total = delivered = failed = pending = summary_created_at = summary_completed_at = None
    if message.HasField("summary"):
        summary = message.summary
        summary_status = summary.status
        total, delivered = summary.total_recipients, summary.delivered
        failed, pending = summary.failed, summary.pending_consent
        if min(total, delivered, failed, pending) < 0 or max(total, delivered, failed, pending) > MAX_COUNT:
            raise Undecodable(f"a count of the summary is outside 0..{MAX_COUNT}", event_id)
        summary_created_at = _time_if_readable(summary.created_at)
        summary_completed_at = _time_if_readable(summary.completed_at)
    poll = _poll(message.poll_response) if message.HasField("poll_response") else _NO_POLL
    columns = (
        event_id,
        app,
        contract.value,
        message.event_type,
        send_request_id or None,
        ppnum,
        error_code,
        message_id,
        *poll,
        summary_status,
        total,
        delivered,
        failed,
        pending,
        _occurred_at(message.occurred_at, message.event_type, event_id),
        payload,
        recipient_created_at,
        summary_created_at,
        summary_completed_at,
    )
    return _new(Event, columns)


def _identity(payload: bytes) -> str | None:
    # The message can't be decoded, perhaps because of one bad text. If its id can, the cursor moves past it.
    try:
        event_id = reading.Identity.FromString(payload).event_id
    except DecodeError:
        return None
    return event_id if ulid.is_ulid(event_id) else None


def _check_texts(
    event_id: str, send_request_id: str | None, ppnum: str | None, error_code: str | None, message_id: str | None
) -> None:
    for name, text, limit in (
        ("send_request_id", send_request_id, MAX_ID_BYTES),
        ("ppnum", ppnum, MAX_ID_BYTES),
        ("error_code", error_code, MAX_ERROR_BYTES),
        ("message_id", message_id, MAX_ID_BYTES),
    ):
        if text and ("\0" in text or len(text.encode()) > limit):
            raise Undecodable(f"{name} is longer than {limit} bytes or contains U+0000", event_id)


class _Poll(NamedTuple):
    """The columns of a poll's answer, in their order in :class:`Event`."""

    poll_id: str | None
    options: list[str] | None
    dropped: int | None


_NO_POLL = _Poll(None, None, None)


def _poll(raw: bytes) -> _Poll:
    # An event is stored without an answer that can't be decoded, and an answer without an option that can't be stored.
    try:
        poll = reading.PollResponse.FromString(raw)
    except DecodeError:
        return _Poll(None, None, 0)
    poll_id = _kept(poll.poll_id, MAX_ID_BYTES)
    if poll_id is None:
        return _Poll(None, None, len(poll.selected_options))
    readable = (_kept(option, MAX_OPTION_BYTES) for option in islice(poll.selected_options, MAX_OPTIONS_READ))
    options = list(islice((option for option in readable if option is not None), MAX_OPTIONS))
    return _Poll(poll_id, options, len(poll.selected_options) - len(options) or None)


def _kept(raw: bytes, limit: int) -> str | None:
    """Return a text that a column can store; None when it is too long, not UTF-8, or contains U+0000."""
    if len(raw) > limit or b"\0" in raw:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _occurred_at(raw: bytes, event_type: int, event_id: str) -> datetime:
    # Without a time, the ULID's time is used. An event of an unknown type may write its time in an unknown way; that is
    # no reason to refuse it.
    if raw:
        try:
            return read_time(raw)
        except ValueError as error:
            if event_type in KNOWN_TYPES:
                raise Undecodable(str(error), event_id) from None
    moment = ulid.time_of(event_id)
    if moment is None or not EARLIEST <= moment < LATEST:
        raise Undecodable("occurred_at is missing, and the ULID's time is after 9999-12-30", event_id)
    return moment


def _time_if_readable(raw: bytes) -> datetime | None:
    # No outcome depends on these times, so one that can't be read is left out, and the event is stored without it.
    if not raw:
        return None
    return _read_known_time(raw) if len(raw) <= MAX_CACHED_TIME_BYTES else _read_time(raw)


def _read_time(raw: bytes) -> datetime | None:
    try:
        return read_time(raw)
    except ValueError:
        return None


# The recipients of a request usually state the same time.
_read_known_time = lru_cache(maxsize=1024)(_read_time)
