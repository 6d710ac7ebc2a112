"""The fields of broken messages: whatever the bytes, something is read, and no phone number is shown unasked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventstore.quarantined.message_fields import MAX_FIELDS, read_fields
from tests import wire

PPNUM = "49151234567"
EVENT = wire.event(
    wire.ulid_of(1_767_225_600_000),
    recipient=wire.recipient(PPNUM, error_code=f"+{PPNUM} is busy"),
    summary=wire.summary(2**40),
    occurred_at=wire.timestamp(1_767_225_600),
    poll_response=wire.poll("poll", f"call {PPNUM}"),
    more=wire.number_field(99, int(PPNUM)) + wire.bytes_field(98, b"\xfe\xff"),
)


def values(payload: bytes, *, is_frame: bool = False, personal_data: bool = False) -> dict[str, str]:
    found = read_fields(payload, is_frame=is_frame, personal_data=personal_data)
    return {field.path: field.value for field in found.fields}


def test_known_fields_have_names_and_others_their_numbers() -> None:
    found = values(EVENT)
    assert found["event_type"] == "1 (RECIPIENT_DELIVERED)"
    assert found["occurred_at"] == "2026-01-01T00:00:00Z"
    assert found["summary.total_recipients"] == str(2**40)
    assert found["?98"] == "0xfeff (2 bytes, not text)"
    assert values(wire.frame(EVENT), is_frame=True)["event.event_type"] == "1 (RECIPIENT_DELIVERED)"


def test_phone_numbers_are_hidden_unless_they_are_asked_for() -> None:
    hidden = read_fields(EVENT)
    assert PPNUM not in str(hidden)
    assert PPNUM.encode().hex() not in hidden.hex
    assert len(hidden.hex) == 2 * len(EVENT)
    shown = read_fields(EVENT, personal_data=True)
    assert bytes.fromhex(shown.hex) == EVENT
    assert {field.path: field.value for field in shown.fields}["recipient.ppnum"] == PPNUM
    short = read_fields(wire.event(recipient=wire.recipient("123")))  # too short for a phone number, but a person's
    assert "[hidden] (3 bytes)" in str(short.fields)
    assert b"123".hex() not in short.hex


def test_fields_after_a_broken_message_are_read() -> None:
    broken = wire.bytes_field(4, wire.bytes_field(2, PPNUM)[:-3]) + wire.number_field(3, 8)
    found = read_fields(broken)
    assert found.unreadable_at is not None
    assert found.fields[-1].value == "8 (REQUEST_FAILED)"
    cut = read_fields(EVENT[:40])
    assert cut.fields[0].path == "event_id"
    assert cut.unreadable_at == 28


def test_a_message_of_a_million_fields_is_cut() -> None:
    found = read_fields(wire.number_field(3, 1) * (MAX_FIELDS + 1))
    assert (len(found.fields), found.has_more) == (MAX_FIELDS, True)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_can_be_read(payload: bytes, is_frame: bool) -> None:
    found = read_fields(payload, is_frame=is_frame)
    assert len(found.hex) == 2 * len(payload)
    assert all(0 <= field.at < len(payload) for field in found.fields)
