"""Builds a log from a world's events: gives each its time and its ULIDs, and encodes it for each contract."""

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
from projections.sandbox.simulator.contract_log import SimulatedEvent
from projections.sandbox.simulator.world_types import Poll, Recipient, Request, WorldEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MESSAGES: dict[Contract, Any] = {Contract.CHAT_EXTERNAL: chat, Contract.PCS_EXTERNAL_V1: pcs}


def build_log(
    world_events: Sequence[WorldEvent],
    *,
    ends: datetime,
    rate: float | None = None,
    contracts: Collection[Contract] = tuple(Contract),
) -> list[SimulatedEvent]:
    """Return the log of a world's events: the same bytes for the same arguments.

    An event of both contracts has the same ULID in both, whichever contracts are chosen.

    Args:
        world_events: the events, in the order of their times.
        ends: the time of the last one.
        rate: events a second: the world's days are compressed, so that events are about 1/rate seconds apart.
        contracts: the contracts to encode for.

    """
    last = (ends - _EPOCH) // timedelta(milliseconds=1)
    encoder = _Encoder(_clock([event.at for event in world_events], last, rate))
    return [
        encoder.entry(event, event_id, contracts)
        for event, event_id in zip(world_events, _event_ids(world_events, encoder.clock), strict=True)
        if event.only is None or event.only in contracts
    ]


def _clock(moments: list[int], last: int, rate: float | None) -> Callable[[int], int]:
    """Return the function from the world's own milliseconds to milliseconds since 1970."""
    if rate is None:
        shift = last - moments[-1] if moments else last
        return lambda at: at + shift
    count = len(moments)
    return lambda at: last - int((count - 1 - bisect_left(moments, at)) * 1000 / rate)


def _event_ids(world_events: Sequence[WorldEvent], clock: Callable[[int], int]) -> Iterator[str]:
    # Within one millisecond each ULID is the last one plus 1, as the ULID specification says: so the order of ULIDs is
    # the order of the log.
    value = 0
    for event in world_events:
        fresh = clock(event.at) << 80 | int.from_bytes(event.entropy, "big")
        value = fresh if fresh >> 80 > value >> 80 else value + 1
        yield str(ULID.from_int(value))


class _Encoder:
    """Encodes events; ``clock`` maps the world's own milliseconds to milliseconds since 1970."""

    def __init__(self, clock: Callable[[int], int]) -> None:
        self.clock = clock

    def entry(self, event: WorldEvent, event_id: str, contracts: Collection[Contract]) -> SimulatedEvent:
        having = contracts if event.only is None else (event.only,)
        payloads = {contract: self._encode(event, event_id, contract) for contract in having}
        return SimulatedEvent(event_id, self._ulid(event.request.sent_at, event.request.entropy), payloads)

    def _encode(self, event: WorldEvent, event_id: str, contract: Contract) -> bytes:
        request = event.request
        message = _MESSAGES[contract].SendRequestEvent(
            event_id=event_id,
            send_request_id=self._ulid(request.sent_at, request.entropy),
            event_type=int(event.event_type),
        )
        self._set_time(message, "occurred_at", event.at, contract)
        if event.recipient is not None:
            self._fill_recipient(message.recipient, event, event.recipient, contract)
        if event.summary is not None:
            self._fill_summary(message.summary, event, contract)
        if event.answer is not None and request.poll is not None:
            message.poll_response.poll_id = self._poll_id(request, request.poll)
            message.poll_response.selected_options.extend(event.answer)
        return bytes(message.SerializeToString(deterministic=True))

    def _fill_recipient(self, message: Any, event: WorldEvent, recipient: Recipient, contract: Contract) -> None:  # noqa: ANN401 - one of two generated classes
        sent_at = event.request.sent_at
        message.id = self._ulid(sent_at, recipient.entropy)
        message.ppnum = recipient.ppnum
        message.status = int(event.state)
        message.message_id = self._ulid(sent_at, recipient.message_entropy)
        if event.error_code is not None:
            message.error_code = event.error_code
        self._set_time(message, "created_at", sent_at, contract)

    def _fill_summary(self, message: Any, event: WorldEvent, contract: Contract) -> None:  # noqa: ANN401 - as above
        request, summary = event.request, event.summary
        if summary is None:
            return
        message.id = self._ulid(request.sent_at, request.entropy)
        message.status = int(summary.state)
        message.total_recipients = request.total
        message.delivered = summary.delivered
        message.pending_consent = summary.pending_consent
        message.failed = summary.failed
        self._set_time(message, "created_at", request.sent_at, contract)
        self._set_time(message, "completed_at", event.at, contract)

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


@lru_cache(maxsize=8192)  # a request's ids occur in each of its events, a recipient's in both contracts
def _text(milliseconds: int, entropy: bytes) -> str:
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + entropy))


@lru_cache(maxsize=8192)
def _rfc3339(milliseconds: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
