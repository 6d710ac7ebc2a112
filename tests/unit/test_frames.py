"""Framing: frames of one contract, bare events of the other, and the request of both."""

from __future__ import annotations

import pytest

from eventstore.contracts import Contract, Frame, FrameKind, encode_request, read_frame
from tests import wire

CHAT, PCS = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
EVENT = wire.event("01KDYN1V80ABCDEFGHJKMNPQRS", recipient=wire.recipient())


@pytest.mark.parametrize("message", [EVENT, b"", b"\xff", wire.frame(EVENT), wire.keep_alive()])
def test_chat_external_has_bare_events_and_nothing_else(message: bytes) -> None:
    assert read_frame(CHAT, message) == Frame(FrameKind.EVENT, message)


@pytest.mark.parametrize("event", [EVENT, b"", b"\xff", b"\0" * 1000])
def test_the_event_in_a_frame_has_its_exact_bytes(event: bytes) -> None:
    assert read_frame(PCS, wire.frame(event)) == Frame(FrameKind.EVENT, event)


def test_an_empty_keep_alive_is_two_bytes() -> None:
    assert wire.keep_alive() == b"\x12\x00"
    assert read_frame(PCS, b"\x12\x00") == Frame(FrameKind.KEEP_ALIVE)
    assert read_frame(PCS, wire.bytes_field(2, wire.number_field(1, 5))) == Frame(FrameKind.KEEP_ALIVE)


def test_an_expired_cursor_has_the_servers_text() -> None:
    assert read_frame(PCS, wire.cursor_expired("older than 7 days")) == Frame(
        FrameKind.CURSOR_EXPIRED, detail="older than 7 days"
    )
    assert read_frame(PCS, wire.cursor_expired()) == Frame(FrameKind.CURSOR_EXPIRED)


@pytest.mark.parametrize(
    ("raw", "detail"),
    [(b"a\xffb", "a\ufffdb"), (b"a\0b", "a\ufffdb"), (b"x" * 5000, "x" * 1024), ("é".encode() * 5000, "é" * 512)],
)
def test_text_that_postgres_cannot_store_is_replaced(raw: bytes, detail: str) -> None:
    assert read_frame(PCS, wire.cursor_expired(raw)) == Frame(FrameKind.CURSOR_EXPIRED, detail=detail)


@pytest.mark.parametrize(
    "message", [b"", wire.unknown_frame(), wire.bytes_field(3, b"events_lost"), wire.number_field(1, 1)]
)
def test_an_unknown_frame_shows_that_the_stream_is_alive(message: bytes) -> None:
    assert read_frame(PCS, message) == Frame(FrameKind.UNKNOWN)


@pytest.mark.parametrize(
    "message", [b"\xff", b"\0", wire.frame(EVENT)[:-1], b"\x0a", wire.tag(1, wire.GROUP), wire.bytes_field(4, b"\xff")]
)
def test_bytes_that_are_not_a_frame_are_garbage_and_kept_whole(message: bytes) -> None:
    assert read_frame(PCS, message) == Frame(FrameKind.GARBAGE, message)


def test_an_event_with_unknown_fields_is_still_an_event() -> None:
    message = wire.unknown_frame() + wire.frame(EVENT) + wire.number_field(77, 1)
    assert read_frame(PCS, message) == Frame(FrameKind.EVENT, EVENT)


@pytest.mark.parametrize("after", [None, "01KDYN1V80ABCDEFGHJKMNPQRS", ""])
@pytest.mark.parametrize("request_id", [None, "01KDYN1V80ABCDEFGHJKMNPQRT"])
def test_the_request_has_the_same_bytes_as_from_another_encoder(after: str | None, request_id: str | None) -> None:
    assert encode_request(after, request_id) == wire.request(after, request_id)


def test_a_request_without_fields_is_empty() -> None:
    assert encode_request(None) == b""


def test_the_methods_are_those_of_the_contracts() -> None:
    assert CHAT.method == "/chat.external.ExternalMessageService/StreamSendRequestEvents"
    assert PCS.method == "/pcs.external.v1.MessageService/StreamSendRequestEvents"
