"""Decoding, and the checks before an event is stored: values on both sides of each limit, in both contracts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from eventstore.contracts import Contract, Event, decode
from eventstore.contracts.decode import MAX_OPTIONS_READ
from eventstore.errors import Undecodable
from tests import wire

CHAT, PCS = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
ID = "01KDYN1V80ABCDEFGHJKMNPQRS"
ULID_TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AT_ULID = wire.ulid_at(ULID_TIME, tail=7)
OCCURRED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
INT32_MAX = 2**31 - 1

TEXT_FIELDS: dict[str, Callable[[wire.Text], bytes]] = {
    "send_request_id": lambda text: wire.event(ID, send_request_id=text),
    "ppnum": lambda text: wire.event(ID, recipient=wire.recipient(text)),
    "error_code": lambda text: wire.event(ID, recipient=wire.recipient(error_code=text)),
    "message_id": lambda text: wire.event(ID, recipient=wire.recipient(message_id=text)),
}
COUNTS: dict[str, Callable[[int], bytes]] = {
    "total_recipients": lambda count: wire.event(ID, 6, summary=wire.summary(total=count)),
    "delivered": lambda count: wire.event(ID, 6, summary=wire.summary(delivered=count)),
    "pending_consent": lambda count: wire.event(ID, 6, summary=wire.summary(pending_consent=count)),
    "failed": lambda count: wire.event(ID, 6, summary=wire.summary(failed=count)),
}


def read(payload: bytes, contract: Contract = CHAT) -> Event:
    return decode(payload, "app", contract)


def refusal(payload: bytes, contract: Contract = CHAT) -> Undecodable:
    with pytest.raises(Undecodable) as caught:
        decode(payload, "app", contract)
    return caught.value


# Columns


@pytest.mark.parametrize("occurred_at", [wire.rfc3339(OCCURRED), wire.timestamp_of(OCCURRED)])
@pytest.mark.parametrize("contract", list(Contract))
def test_every_column_is_decoded_from_both_contracts(contract: Contract, occurred_at: wire.Text) -> None:
    payload = wire.event(
        ID,
        8,
        send_request_id="request",
        recipient=wire.recipient(
            "12300000002",
            recipient_id="r",
            message_id="message",
            error_code="consent_denied",
            created_at=occurred_at,
        ),
        summary=wire.summary(10, 4, 3, 2, status=4, summary_id="s", created_at=occurred_at, completed_at=occurred_at),
        occurred_at=occurred_at,
        poll_response=wire.poll("poll", "yes", "no"),
    )
    assert decode(payload, "my app", contract) == Event(
        event_id=ID,
        app="my app",
        contract=contract.value,
        event_type=8,
        send_request_id="request",
        ppnum="12300000002",
        error_code="consent_denied",
        message_id="message",
        poll_id="poll",
        poll_options=["yes", "no"],
        poll_options_dropped=None,
        summary_status=4,
        total_recipients=10,
        delivered=4,
        failed=2,
        pending_consent=3,
        occurred_at=OCCURRED,
        payload=payload,
        recipient_created_at=OCCURRED,
        summary_created_at=OCCURRED,
        summary_completed_at=OCCURRED,
    )


def test_absent_fields_are_none() -> None:
    payload = wire.event(AT_ULID, None, send_request_id=None, occurred_at=None)
    assert tuple(read(payload)) == (AT_ULID, "app", CHAT.value, 0, *[None] * 12, ULID_TIME, payload, None, None, None)


def test_the_order_of_the_fields_does_not_matter() -> None:
    payload = (
        wire.bytes_field(1007, wire.poll("poll", "yes"))
        + wire.bytes_field(6, wire.rfc3339(OCCURRED))
        + wire.bytes_field(4, wire.recipient("12300000001"))
        + wire.number_field(3, 7)
        + wire.bytes_field(1, ID)
    )
    event = read(payload)
    assert (event.event_id, event.event_type, event.ppnum, event.poll_id, event.occurred_at, event.payload) == (
        ID,
        7,
        "12300000001",
        "poll",
        OCCURRED,
        payload,
    )


def test_an_empty_request_id_names_no_request() -> None:
    assert read(wire.event(ID, send_request_id="")).send_request_id is None


def test_an_empty_ppnum_differs_from_no_recipient() -> None:
    assert read(wire.event(ID, recipient=wire.recipient(""))).ppnum == ""
    assert read(wire.event(ID, recipient=wire.recipient(None))).ppnum == ""
    assert read(wire.event(ID, recipient=b"")).ppnum == ""
    assert read(wire.event(ID)).ppnum is None


def test_an_empty_error_code_differs_from_none() -> None:
    assert read(wire.event(ID, recipient=wire.recipient(error_code=""))).error_code == ""
    assert read(wire.event(ID, recipient=wire.recipient())).error_code is None
    assert read(wire.event(ID, recipient=wire.recipient(message_id=""))).message_id == ""
    assert read(wire.event(ID, recipient=wire.recipient())).message_id is None


def test_an_empty_summary_has_counts_of_zero() -> None:
    event = read(wire.event(ID, 6, summary=b""))
    counts = (event.total_recipients, event.delivered, event.failed, event.pending_consent)
    assert (event.summary_status, *counts) == (0, 0, 0, 0, 0)


# The ULID


@pytest.mark.parametrize("event_id", ["7" + "Z" * 25, "7" + "0" * 25])
def test_the_last_ulids_are_accepted_if_the_event_has_a_time(event_id: str) -> None:
    assert read(wire.event(event_id)).event_id == event_id


@pytest.mark.parametrize(
    "event_id",
    [
        "8" + "0" * 25,
        ID.lower(),
        ID[:25] + "s",
        ID[:25],
        ID + "0",
        "",
        ID[:25] + "\0",
        ID[:25] + "\n",
        *(ID[:9] + letter + ID[10:] for letter in "ILOU"),
    ],
)
@pytest.mark.parametrize("contract", list(Contract))
def test_an_id_that_is_not_an_upper_case_ulid_is_refused(contract: Contract, event_id: str) -> None:
    error = refusal(wire.event(event_id), contract)
    assert error.reason == "event_id is not an upper-case ULID"
    assert error.event_id is None


def test_an_event_without_an_id_is_refused() -> None:
    assert refusal(wire.event(ID)[28:]).event_id is None
    assert refusal(b"").reason == "event_id is not an upper-case ULID"


# Texts


@pytest.mark.parametrize("text", ["a" * 256, "é" * 128, "€" * 85 + "a", "😀" * 64, "\u0001", "\ufeff", "😀"])
@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_a_text_of_up_to_256_bytes_is_accepted_unchanged(field: str, text: str) -> None:
    assert getattr(read(TEXT_FIELDS[field](text)), field) == text


@pytest.mark.parametrize(
    "text", ["a" * 257, "é" * 128 + "a", "€" * 85 + "é", "😀" * 64 + "a", "\0", "a\0", "é\0", "\0" + "a" * 255]
)
@pytest.mark.parametrize("field", sorted(TEXT_FIELDS.keys() - {"error_code"}))
def test_a_text_of_257_bytes_or_with_a_nul_is_refused_with_the_event_id(field: str, text: str) -> None:
    error = refusal(TEXT_FIELDS[field](text))
    assert error.reason == f"{field} is longer than 256 bytes or contains U+0000"
    assert error.event_id == ID


@pytest.mark.parametrize("text", ["a" * 4096, "é" * 2048, "ไ" * 1365, "😀" * 1024])
def test_an_error_text_of_up_to_4_kib_is_accepted_unchanged(text: str) -> None:
    assert read(TEXT_FIELDS["error_code"](text)).error_code == text


@pytest.mark.parametrize("text", ["a" * 4097, "é" * 2048 + "a", "\0", "a\0"])
def test_an_error_text_beyond_4_kib_or_with_a_nul_is_refused(text: str) -> None:
    error = refusal(TEXT_FIELDS["error_code"](text))
    assert (error.reason, error.event_id) == ("error_code is longer than 4096 bytes or contains U+0000", ID)


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"])
@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_a_text_that_is_not_utf_8_is_refused_with_the_event_id(field: str, raw: bytes) -> None:
    error = refusal(TEXT_FIELDS[field](raw))
    assert error.reason == "the bytes are not a SendRequestEvent"
    assert error.event_id == ID


def test_texts_that_are_not_kept_as_columns_are_not_checked() -> None:
    bad = b"\xff\0" * 300
    payload = wire.event(
        ID,
        recipient=wire.recipient("12300000001", recipient_id=bad),
        summary=wire.summary(summary_id=bad),
    )
    assert read(payload).ppnum == "12300000001"


# Counts


@pytest.mark.parametrize("count", [0, 1, INT32_MAX])
@pytest.mark.parametrize("field", COUNTS)
def test_a_count_from_zero_to_the_last_int32_is_accepted(field: str, count: int) -> None:
    assert getattr(read(COUNTS[field](count)), field) == count


@pytest.mark.parametrize("count", [-1, -(2**31), 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("field", COUNTS)
def test_a_count_outside_is_refused_and_never_wraps(field: str, count: int) -> None:
    error = refusal(COUNTS[field](count))
    assert error.reason == f"a count of the summary is outside 0..{INT32_MAX}"
    assert error.event_id == ID


@pytest.mark.parametrize("status", [0, 4, 5, -1, INT32_MAX, -(2**31)])
def test_a_summarys_status_may_be_any_int32(status: int) -> None:
    assert read(wire.event(ID, 6, summary=wire.summary(status=status))).summary_status == status


# Types


@pytest.mark.parametrize("event_type", [0, 9, -1, 1007, INT32_MAX, -(2**31)])
@pytest.mark.parametrize("contract", list(Contract))
def test_an_unknown_type_is_accepted(contract: Contract, event_type: int) -> None:
    assert read(wire.event(ID, event_type), contract).event_type == event_type


@pytest.mark.parametrize("event_type", range(1, 9))
@pytest.mark.parametrize("contract", list(Contract))
def test_numbers_mean_the_same_in_both_contracts(contract: Contract, event_type: int) -> None:
    assert read(wire.event(ID, event_type), contract).event_type == event_type


def test_a_type_of_more_than_32_bits_is_truncated_as_protobuf_specifies() -> None:
    assert read(wire.event(ID, 2**32 + 9)).event_type == 9
    assert read(wire.event(ID, 2**32 - 1)).event_type == -1


# Times


@pytest.mark.parametrize("absent", [None, b""])
@pytest.mark.parametrize("event_type", [1, 9])
def test_an_event_without_a_time_gets_its_ulids_time(event_type: int, absent: bytes | None) -> None:
    assert read(wire.event(AT_ULID, event_type, occurred_at=absent)).occurred_at == ULID_TIME


@pytest.mark.parametrize("occurred_at", ["yesterday", b"\xff\xff", "9999-12-31T00:00:00Z", wire.timestamp(2**60)])
@pytest.mark.parametrize("event_type", [0, 9, -1, INT32_MAX])
def test_an_unknown_type_with_an_unreadable_time_gets_its_ulids_time(event_type: int, occurred_at: wire.Text) -> None:
    assert read(wire.event(AT_ULID, event_type, occurred_at=occurred_at)).occurred_at == ULID_TIME


@pytest.mark.parametrize("occurred_at", ["yesterday", b"\xff\xff", "9999-12-31T00:00:00Z", wire.timestamp(2**60)])
@pytest.mark.parametrize("event_type", range(1, 9))
def test_a_known_type_with_an_unreadable_time_is_refused(event_type: int, occurred_at: wire.Text) -> None:
    error = refusal(wire.event(ID, event_type, occurred_at=occurred_at))
    assert error.reason.startswith("occurred_at ")
    assert error.event_id == ID


@pytest.mark.parametrize(
    "unreadable",
    [None, "", "yesterday", b"\xff\0" * 300, "9999-12-31T00:00:00Z", wire.timestamp(2**60), wire.timestamp(1, 10**9)],
)
@pytest.mark.parametrize("contract", list(Contract))
def test_an_unreadable_time_inside_a_recipient_or_summary_is_none_and_refuses_nothing(
    contract: Contract, unreadable: wire.Text | None
) -> None:
    for event_type in (6, 9):
        event = read(
            wire.event(
                ID,
                event_type,
                recipient=wire.recipient("12300000001", created_at=unreadable),
                summary=wire.summary(1, created_at=unreadable, completed_at=wire.timestamp_of(OCCURRED)),
            ),
            contract,
        )
        assert (event.ppnum, event.total_recipients) == ("12300000001", 1)
        assert event[-3:] == (None, None, OCCURRED)
        assert event.occurred_at == OCCURRED


@pytest.mark.parametrize(
    ("occurred_at", "expected"),
    [
        ("0001-01-02T00:00:00Z", datetime(1, 1, 2, tzinfo=UTC)),
        ("9999-12-30T23:59:60Z", datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)),
        (wire.timestamp(-62_135_510_400), datetime(1, 1, 2, tzinfo=UTC)),
        (wire.timestamp(253_402_214_399, 999_999_999), datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_times_at_the_limits_are_accepted(occurred_at: wire.Text, expected: datetime) -> None:
    assert read(wire.event(ID, occurred_at=occurred_at)).occurred_at == expected


@pytest.mark.parametrize(
    "occurred_at",
    [
        "0001-01-01T23:59:59.999999Z",
        "9999-12-31T00:00:00Z",
        wire.timestamp(-62_135_510_401, 999_999_999),
        wire.timestamp(253_402_214_400),
        wire.timestamp(1_767_322_800, -1),
        wire.timestamp(1_767_322_800, 10**9),
    ],
)
def test_times_beyond_the_limits_are_refused(occurred_at: wire.Text) -> None:
    assert refusal(wire.event(ID, occurred_at=occurred_at)).event_id == ID


def test_the_time_of_a_ulid_has_the_same_limit() -> None:
    edge = (datetime(9999, 12, 31, tzinfo=UTC) - wire.EPOCH).total_seconds() * 1000
    inside, outside = wire.ulid_of(int(edge) - 1), wire.ulid_of(int(edge))
    assert read(wire.event(inside, occurred_at=None)).occurred_at == datetime(
        9999, 12, 30, 23, 59, 59, 999000, tzinfo=UTC
    )
    for event_id in (outside, "7" + "Z" * 25):
        error = refusal(wire.event(event_id, occurred_at=None))
        assert error.reason == "occurred_at is missing, and the ULID's time is after 9999-12-30"
        assert error.event_id == event_id


# Polls


THAI, CHINESE, EMOJI = "ก" * 100, "好" * 100, "😀" * 100
"""Chat apps allow options of 100 characters."""


@pytest.mark.parametrize(
    ("raw", "poll_id", "options"),
    [
        (wire.poll("poll", "yes"), "poll", ["yes"]),
        (wire.poll("poll"), "poll", []),
        (wire.poll(None, "yes"), "", ["yes"]),
        (b"", "", []),
        (wire.poll("poll", "", "b", "a", "b"), "poll", ["", "b", "a", "b"]),
        (wire.poll("p" * 256, "o" * 256, "é" * 128), "p" * 256, ["o" * 256, "é" * 128]),
        (wire.poll("poll", THAI, CHINESE, EMOJI), "poll", [THAI, CHINESE, EMOJI]),
        (wire.poll("poll", "o" * 2000, "é" * 1000), "poll", ["o" * 2000, "é" * 1000]),
        (wire.poll("poll", *map(str, range(1000))), "poll", [*map(str, range(1000))]),
        (wire.poll("poll", "yes") + wire.bytes_field(3, b"\xff"), "poll", ["yes"]),
    ],
)
def test_a_readable_poll_is_stored(raw: bytes, poll_id: str, options: list[str]) -> None:
    event = read(wire.event(ID, 7, poll_response=raw))
    assert (event.poll_id, event.poll_options, event.poll_options_dropped) == (poll_id, options, None)


@pytest.mark.parametrize(
    ("raw", "options", "dropped"),
    [
        (wire.poll("poll", "yes", "o" * 2001), ["yes"], 1),
        (wire.poll("poll", "é" * 1000 + "a", "yes", "a\0", "no"), ["yes", "no"], 2),
        (wire.poll("poll", "yes", "\0"), ["yes"], 1),
        (wire.poll("poll", b"\xed\xa0\x80"), [], 1),
        (wire.poll("poll", b"\xff", "yes", b"\xc3"), ["yes"], 2),
        (wire.poll("poll", "o" * 2001, *map(str, range(1001))), [*map(str, range(1000))], 2),
    ],
)
def test_only_the_option_that_cannot_be_stored_is_dropped_and_counted(
    raw: bytes, options: list[str], dropped: int
) -> None:
    event = read(wire.event(ID, 7, poll_response=raw))
    assert (event.poll_id, event.poll_options, event.poll_options_dropped) == ("poll", options, dropped)


def test_only_the_first_of_millions_of_options_are_examined() -> None:
    event = read(wire.event(ID, 7, poll_response=wire.poll("poll", "no", *["\0"] * MAX_OPTIONS_READ, "yes")))
    assert (event.poll_options, event.poll_options_dropped) == (["no"], MAX_OPTIONS_READ + 1)


@pytest.mark.parametrize(
    ("raw", "dropped"),
    [
        (wire.poll("p" * 257, "yes"), 1),
        (wire.poll("po\0ll", "yes", "no"), 2),
        (wire.poll(b"\xff"), 0),
        (wire.poll("poll", "yes")[:-1], 0),
        (b"\xff", 0),
        (b"not a message", 0),
    ],
)
def test_a_poll_whose_id_cannot_be_stored_is_absent_and_counted(raw: bytes, dropped: int) -> None:
    payload = wire.event(ID, 7, recipient=wire.recipient("12300000001"), poll_response=raw)
    event = read(payload)
    assert (event.poll_id, event.poll_options, event.poll_options_dropped) == (None, None, dropped)
    assert (event.event_id, event.ppnum, event.payload) == (ID, "12300000001", payload)


def test_an_event_without_a_poll_is_accepted() -> None:
    event = read(wire.event(ID, 7, recipient=wire.recipient()))
    assert (event.event_type, event.poll_id, event.poll_options) == (7, None, None)
    assert event.poll_options_dropped is None


# What the wire format allows


def test_unknown_fields_stay_in_the_payload_and_are_ignored() -> None:
    unknown = (
        wire.number_field(5000, -1)
        + wire.fixed32_field(7, 1)
        + wire.fixed64_field(8, 1)
        + wire.bytes_field(1006, b"\xff\0")
        + wire.group_field(1008, wire.number_field(1, 1) + wire.group_field(2))
    )
    payload = unknown + wire.event(ID, recipient=unknown + wire.recipient("1") + unknown, more=unknown)
    event = read(payload)
    assert (event.event_id, event.ppnum, event.payload) == (ID, "1", payload)


def test_the_last_of_a_repeated_singular_field_counts_and_messages_merge() -> None:
    payload = (
        wire.event("nonsense", 1, send_request_id="first", recipient=wire.recipient("1", message_id="kept"))
        + wire.bytes_field(1, ID)
        + wire.bytes_field(2, "last")
        + wire.number_field(3, 2)
        + wire.bytes_field(4, wire.bytes_field(2, "2"))
        + wire.bytes_field(6, "2026-01-02T00:00:00Z")
    )
    event = read(payload)
    assert (event.event_id, event.event_type, event.send_request_id, event.ppnum, event.message_id) == (
        ID,
        2,
        "last",
        "2",
        "kept",
    )
    assert event.occurred_at == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "field",
    [
        wire.bytes_field(3, b"\x02"),
        wire.fixed32_field(3, 2),
        wire.number_field(2, 1),
        wire.number_field(4, 1),
        wire.fixed64_field(5, 1),
        wire.number_field(6, 1_767_322_800),
        wire.number_field(1007, 1),
    ],
)
def test_a_field_of_another_wire_type_is_an_unknown_field(field: bytes) -> None:
    plain = wire.event(ID, 7)
    assert read(plain + field) == read(plain)._replace(payload=plain + field)


def test_an_id_of_another_wire_type_is_missing() -> None:
    assert refusal(wire.event(ID)[28:] + wire.number_field(1, 1)).event_id is None


def test_a_truncated_event_is_refused_or_is_a_shorter_event() -> None:
    whole = wire.event(
        ID, 7, recipient=wire.recipient(), summary=wire.summary(1, 1), poll_response=wire.poll("poll", "yes")
    )
    ends = [28]  # the end of the event_id, then of each other field
    for part in (28, 2, 2 + len(wire.recipient()), 2 + len(wire.summary(1, 1)), 2 + 27):
        ends.append(ends[-1] + part)
    ends.append(len(whole))
    assert wire.event(ID)[:28] == wire.bytes_field(1, ID)
    for length in range(len(whole)):
        if length in ends:
            assert read(whole[:length]).payload == whole[:length]
        else:
            assert refusal(whole[:length]).event_id is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        b"\x08",
        b"\xff" * 11,
        b"garbage",
        wire.tag(1, wire.DELIMITED) + b"\xff\xff\xff\xff\x0f",
        wire.tag(1, wire.DELIMITED) + b"\xff" * 9 + b"\x01",
        wire.tag(0, wire.VARINT) + b"\0",
        wire.tag(5, 6),
        wire.tag(5, 7),
        wire.tag(1008, wire.END_GROUP),
        wire.tag(1008, wire.GROUP),
        wire.tag(1008, wire.GROUP) * 10_000,
        wire.tag(3, wire.VARINT) + b"\xff" * 10 + b"\x01",
    ],
)
@pytest.mark.parametrize("contract", list(Contract))
def test_invalid_bytes_are_refused_even_after_a_valid_event(contract: Contract, raw: bytes) -> None:
    assert refusal(raw, contract).event_id is None
    assert refusal(wire.event(ID) + raw, contract).reason == "the bytes are not a SendRequestEvent"


def test_a_frame_is_not_an_event() -> None:
    assert refusal(wire.frame(wire.event(ID))).event_id is None


def test_a_reason_contains_no_value() -> None:
    secret = "12399999999"
    bad = [
        wire.event(ID, recipient=wire.recipient(secret * 30)),
        wire.event(ID, recipient=wire.recipient(secret + "\0")),
        wire.event(ID, recipient=wire.recipient(secret.encode() + b"\xff")),
        wire.event(secret, recipient=wire.recipient(secret)),
        wire.event(ID, occurred_at=secret),
        wire.event(ID, 6, summary=wire.summary(int(secret))),
    ]
    for payload in bad:
        error = refusal(payload)
        assert secret not in f"{error} {error.reason} {error!r}"
        assert error.__cause__ is None
