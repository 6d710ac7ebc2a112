"""The framing of a stream: the request that opens it, and what each message on it is.

``chat.external`` sends events as they are; ``pcs.external.v1`` puts each one into a frame, between other frames.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from google.protobuf.message import DecodeError

from eventstore.contracts._generated.eventstore.reading_pb2 import Frame as FrameMessage
from eventstore.contracts._generated.pcs.external.v1.message_service_pb2 import StreamSendRequestEventsRequest
from eventstore.contracts.contract import Contract

MAX_DETAIL_BYTES = 1024
NOT_A_FRAME = "the bytes are not a SendRequestEventFrame"
"""The reason for which a message that is not a frame is quarantined: its bytes are the whole message, not an event."""


class FrameKind(Enum):
    """What one message on a stream is."""

    EVENT = auto()
    KEEP_ALIVE = auto()
    CURSOR_EXPIRED = auto()
    UNKNOWN = auto()  # a frame of a kind that we don't know; it shows that the stream is alive
    GARBAGE = auto()  # not a frame


class Frame(NamedTuple):
    """One message on a stream.

    ``data`` is the event's bytes for EVENT, the whole message for GARBAGE, else empty; ``detail`` is the server's text
    for CURSOR_EXPIRED, else empty.
    """

    kind: FrameKind
    data: bytes = b""
    detail: str = ""


_KEEP_ALIVE = Frame(FrameKind.KEEP_ALIVE)
_UNKNOWN = Frame(FrameKind.UNKNOWN)


def encode_request(after_event_id: str | None, send_request_id: str | None = None) -> bytes:
    """Return the request's bytes; both contracts have the same fields under the same numbers."""
    return StreamSendRequestEventsRequest(
        send_request_id=send_request_id, after_event_id=after_event_id
    ).SerializeToString()


def read_frame(contract: Contract, message: bytes) -> Frame:
    """Return what one message on a stream of a contract is; whatever bytes arrive, this raises no error."""
    if contract is Contract.CHAT_EXTERNAL:
        return Frame(FrameKind.EVENT, message)
    try:
        frame = FrameMessage.FromString(message)
    except DecodeError:
        return Frame(FrameKind.GARBAGE, message)
    kind = frame.WhichOneof("frame")
    if kind == "event":
        return Frame(FrameKind.EVENT, frame.event)
    if kind == "keep_alive":
        return _KEEP_ALIVE
    if kind == "cursor_expired":
        return Frame(FrameKind.CURSOR_EXPIRED, detail=_words(frame.cursor_expired.detail))
    return _UNKNOWN


def _words(raw: bytes) -> str:
    # Characters that Postgres can't store are replaced; a sentence needs no more than this length.
    return raw[:MAX_DETAIL_BYTES].decode(errors="replace").replace("\0", "\ufffd")
