"""Decodes quarantined messages again, after an update of the decoder, and stores those that are events now.

Invariants. Which messages are retried is decided once, at the start; each chunk of them is stored in a transaction of
its own (:mod:`eventstore.appending.retrying`). A process that is killed leaves whole chunks, and can be run again. A
message that can't be stored stays as it is, also its reason; the answer says why it can't be stored now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.duplicates import OTHER_BYTES, OTHER_VALUES
from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.appending.retrying import Candidate, Retried, judge_candidates, store_quarantined
from eventstore.contracts import Contract, Event, FrameKind, decode, read_frame
from eventstore.contracts.framing import NOT_A_FRAME
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.errors import Undecodable
from eventstore.quarantined.messages import QuarantinedMessage, Selection, select_ids
from eventstore.quarantined.payload_chunks import read_chunks
from eventstore.waits import Waits

Decoder = Callable[[bytes, str, Contract], Event]

NO_EVENT_IN_FRAME = "the frame has no event"
ERASED = "its bytes were erased with a person"


@dataclass(frozen=True, slots=True)
class StillQuarantined:
    """A message that stays in quarantine: why it was quarantined, and why it can't be stored now."""

    id: int
    app: str
    recorded_reason: str
    reason: str

    @property
    def is_forever(self) -> bool:
        """Whether no decoder can help: another event is stored under its event_id, or its bytes are gone."""
        return self.reason in (OTHER_BYTES, OTHER_VALUES, ERASED) or self.reason.startswith(
            "its event_id is already stored"
        )


@dataclass(slots=True)
class RetryResult:
    """What a retry did, or with ``dry_run`` would do.

    Attributes:
        selected: how many messages were chosen.
        stored: how many events were stored.
        duplicates: how many messages were removed because their events were stored already.
        still: those that stay.
        gone: how many were removed by somebody else meanwhile.
        missing: numbers that were asked for and that no message has.

    """

    selected: int = 0
    stored: int = 0
    duplicates: int = 0
    still: list[StillQuarantined] = field(default_factory=list)
    gone: int = 0
    missing: list[int] = field(default_factory=list)


async def retry_messages(
    conn: AsyncConnection[Any],
    selection: Selection,
    limits: QuarantineLimits,
    waits: Waits,
    *,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    decoder: Decoder = decode,
    key: ErasureKey | None = None,
) -> RetryResult:
    """Decode messages again, and store those that are events now.

    Args:
        conn: an autocommit connection, used by nobody else meanwhile.
        selection: which messages.
        limits: how much the quarantine keeps, to tell whether it has room afterwards.
        waits: ``append_lock`` counts.
        dry_run: only look, and change nothing.
        on_progress: is called after each chunk with the number of messages done, and of all.
        decoder: the function that decodes an event.
        key: the erasure key; None without one.

    Raises:
        LockHeld: an import adds events after the head; the chunks before are stored.
        psycopg.Error: the database failed, or the connection; the chunks before are stored.

    """
    chosen = await select_ids(conn, selection)
    result = RetryResult(selected=len(chosen), missing=sorted({*(selection.ids or ())} - {*chosen}))
    done = 0
    async for chunk in read_chunks(conn, chosen):
        by_app: dict[str, list[Candidate]] = {}
        messages = {message.id: message for message in chunk}
        for message in chunk:
            event = decode_again(message, decoder)
            if isinstance(event, Event):
                by_app.setdefault(message.app, []).append(Candidate(message.id, event))
            else:
                result.still.append(StillQuarantined(message.id, message.app, message.reason, event))
        for app in sorted(by_app):
            if dry_run:
                found = await judge_candidates(conn, by_app[app])
            else:
                found = await store_quarantined(conn, by_app[app], limits, waits, key)
            _add(result, found, messages)
        done += len(chunk)
        on_progress(done, len(chosen))
    # Messages that were gone before their chunk was read.
    result.gone = result.selected - result.stored - result.duplicates - len(result.still)
    return result


def decode_again(message: QuarantinedMessage, decoder: Decoder = decode) -> Event | str:
    """Return the event that a message is, or why it can't be one."""
    if message.erased_at is not None:
        return ERASED
    contract, payload = Contract(message.contract), message.payload or b""
    if message.reason == NOT_A_FRAME:
        frame = read_frame(contract, payload)
        if frame.kind is FrameKind.GARBAGE:
            return NOT_A_FRAME
        if frame.kind is not FrameKind.EVENT:
            return NO_EVENT_IN_FRAME
        payload = frame.data
    try:
        return decoder(payload, message.app, contract)
    except Undecodable as error:
        return error.reason


def _add(result: RetryResult, found: Retried, messages: dict[int, QuarantinedMessage]) -> None:
    result.stored += len(found.stored)
    result.duplicates += len(found.duplicates)
    for number, reason in sorted(found.refused.items()):
        message = messages[number]
        result.still.append(StillQuarantined(number, message.app, message.reason, reason))
