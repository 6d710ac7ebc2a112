"""Turns what happens into log entries: gives it its moment and its ULIDs, and writes the bytes of each contract."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from ulid import ULID

from eventstore.contracts import Contract
from eventstore.contracts._generated.chat.external import message_service_pb2 as chat
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from projections.sandbox.simulator.event_log import SimulatedEvent
from projections.sandbox.simulator.world_model import Happening, Poll, Recipient, Request

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MESSAGES: dict[Contract, Any] = {Contract.CHAT_EXTERNAL: chat, Contract.PCS_EXTERNAL_V1: pcs}


def entries(
    story: Sequence[Happening],
    *,
    ends: datetime,
    rate: float | None = None,
    contracts: Collection[Contract] = tuple(Contract),
) -> list[SimulatedEvent]:
    """Return the log of a story: byte for byte the same for the same arguments.

    An event that both contracts have has the same ULID in both, whichever contracts are wanted.

    Args:
        story: what happens, in order.
        ends: when the last of it happens.
        rate: events a second; then the story's days shrink so that events lie about 1/rate seconds apart.
        contracts: whose bytes are wanted.

    """
    last = (ends - _EPOCH) // timedelta(milliseconds=1)
    encoder = _Encoder(_clock([happening.at for happening in story], last, rate))
    return [
        encoder.entry(happening, event_id, contracts)
        for happening, event_id in zip(story, _event_ids(story, encoder.clock), strict=True)
        if happening.only is None or happening.only in contracts
    ]


def _clock(moments: list[int], last: int, rate: float | None) -> Callable[[int], int]:
    """Return what maps the world's own milliseconds to milliseconds since 1970."""
    if rate is None:
        shift = last - moments[-1] if moments else last
        return lambda at: at + shift
    count = len(moments)
    return lambda at: last - int((count - 1 - bisect_left(moments, at)) * 1000 / rate)


def _event_ids(story: Sequence[Happening], clock: Callable[[int], int]) -> Iterator[str]:
    # Within a millisecond a ULID is the one before plus one, as the ULID specification wants it: so their order is
    # the log's order.
    value = 0
    for happening in story:
        fresh = clock(happening.at) << 80 | int.from_bytes(happening.entropy, "big")
        value = fresh if fresh >> 80 > value >> 80 else value + 1
        yield str(ULID.from_int(value))


class _Encoder:
    """Writes entries; ``clock`` maps the world's own milliseconds to milliseconds since 1970."""

    def __init__(self, clock: Callable[[int], int]) -> None:
        self.clock = clock

    def entry(self, happening: Happening, event_id: str, contracts: Collection[Contract]) -> SimulatedEvent:
        bearers = contracts if happening.only is None else (happening.only,)
        payloads = {contract: self._event(happening, event_id, contract) for contract in bearers}
        return SimulatedEvent(event_id, self._ulid(happening.request.sent_at, happening.request.entropy), payloads)

    def _event(self, happening: Happening, event_id: str, contract: Contract) -> bytes:
        request = happening.request
        event = _MESSAGES[contract].SendRequestEvent(
            event_id=event_id,
            send_request_id=self._ulid(request.sent_at, request.entropy),
            event_type=int(happening.event_type),
        )
        self._set_time(event, "occurred_at", happening.at, contract)
        if happening.recipient is not None:
            self._fill_recipient(event.recipient, happening, happening.recipient, contract)
        if happening.summary is not None:
            self._fill_summary(event.summary, happening, contract)
        if happening.answer is not None and request.poll is not None:
            event.poll_response.poll_id = self._poll_id(request, request.poll)
            event.poll_response.selected_options.extend(happening.answer)
        return bytes(event.SerializeToString(deterministic=True))

    def _fill_recipient(self, message: Any, happening: Happening, recipient: Recipient, contract: Contract) -> None:  # noqa: ANN401 - one of two generated classes
        sent_at = happening.request.sent_at
        message.id = self._ulid(sent_at, recipient.entropy)
        message.ppnum = recipient.ppnum
        message.status = int(happening.state)
        message.message_id = self._ulid(sent_at, recipient.message_entropy)
        if happening.error_code is not None:
            message.error_code = happening.error_code
        self._set_time(message, "created_at", sent_at, contract)

    def _fill_summary(self, message: Any, happening: Happening, contract: Contract) -> None:  # noqa: ANN401 - as above
        request, summary = happening.request, happening.summary
        if summary is None:
            return
        message.id = self._ulid(request.sent_at, request.entropy)
        message.status = int(summary.state)
        message.total_recipients = request.total
        message.delivered = summary.delivered
        message.pending_consent = summary.pending_consent
        message.failed = summary.failed
        self._set_time(message, "created_at", request.sent_at, contract)
        self._set_time(message, "completed_at", happening.at, contract)

    def _set_time(self, message: Any, name: str, at: int, contract: Contract) -> None:  # noqa: ANN401 - as above
        milliseconds = self.clock(at)
        if contract is Contract.CHAT_EXTERNAL:
            setattr(message, name, _rfc3339(milliseconds))
        else:
            stamp = getattr(message, name)
            stamp.seconds, stamp.nanos = milliseconds // 1000, milliseconds % 1000 * 1_000_000

    def _poll_id(self, request: Request, poll: Poll) -> str:
        return self._ulid(request.sent_at, poll.entropy)

    def _ulid(self, at: int, entropy: bytes) -> str:
        return _text(self.clock(at), entropy)


@lru_cache(maxsize=8192)  # a request's ids come back in each of its events, a recipient's in both contracts
def _text(milliseconds: int, entropy: bytes) -> str:
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + entropy))


@lru_cache(maxsize=8192)
def _rfc3339(milliseconds: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
