"""``occurred_at``: what is decoded, truncated and refused, in both forms, on both sides of each limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from eventstore.contracts.times import EARLIEST, LATEST, read_time
from tests import wire

FIRST = datetime(1, 1, 2, tzinfo=UTC)
LAST = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)


def seconds_since_1970(moment: datetime) -> int:
    return (moment - wire.EPOCH) // timedelta(seconds=1)


def test_the_limits_are_those_of_the_design() -> None:
    assert EARLIEST == FIRST
    assert LATEST - timedelta(microseconds=1) == LAST


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02t03:04:05z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02 03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.5Z", datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)),
        ("2026-01-02T03:04:05.000001Z", datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=UTC)),
        ("2026-01-02T03:04:05+00:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05-00:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+05:45", datetime(2026, 1, 1, 21, 19, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05-11:30", datetime(2026, 1, 2, 14, 34, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+23:59", datetime(2026, 1, 1, 3, 5, 5, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2026-12-31T23:59:59Z", datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_rfc_3339_is_read(text: str, expected: datetime) -> None:
    moment = read_time(text.encode())
    assert moment == expected
    assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("fraction", "micros"),
    [
        (".9999999", 999999),
        (".1234567", 123456),
        (".1234565", 123456),
        (".0000009", 0),
        (".999999999999999999999999", 999999),
        (".000000", 0),
    ],
)
def test_a_fraction_is_truncated_to_the_microsecond(fraction: str, micros: int) -> None:
    assert read_time(f"2026-01-02T03:04:05{fraction}Z".encode()) == datetime(2026, 1, 2, 3, 4, 5, micros, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2016-12-31T23:59:60.25Z", datetime(2016, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2016-12-31T15:59:60-08:00", datetime(2016, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("9999-12-30T23:59:60Z", LAST),
    ],
)
def test_a_leap_second_is_the_last_microsecond_before_it(text: str, expected: datetime) -> None:
    assert read_time(text.encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:61Z",
        "2026-01-02T03:60:05Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T24:00:60Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "0000-01-02T00:00:00Z",
        "2026-01-02T03:04:05+24:00",
        "2026-01-02T03:04:05+00:60",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04Z",
        "2026-01-02",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05,5Z",
        "2026-01-02T03:04:05+0000",
        "2026-01-02T03:04:05 Z",
        " 2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05Z ",
        "2026-01-02T03:04:05Z\n",
        "2026-1-2T03:04:05Z",
        "12026-01-02T03:04:05Z",
        "+2026-01-02T03:04:05Z",
        "2026-W01-1T03:04:05Z",
        "\u0662026-01-02T03:04:05Z",
        "2026-01-02T03:04:05\u2212" + "01:00",
        "1767322800",
        "yesterday",
    ],
)
def test_text_that_is_not_an_rfc_3339_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^occurred_at "):
        read_time(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-02T00:00:00Z",
        "0001-01-01T23:00:00-01:00",
        "0001-01-02T23:59:00+23:59",
        "9999-12-30T23:59:59.999999Z",
        "9999-12-30T23:59:59.9999999Z",
        "9999-12-31T00:59:59.999999+01:00",
        "9999-12-31T23:58:59.999999+23:59",
    ],
)
def test_times_as_text_within_the_limits_are_accepted(text: str) -> None:
    assert FIRST <= read_time(text.encode()) <= LAST


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T23:59:59.999999Z",
        "0001-01-02T00:59:59+01:00",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T00:00:00Z",
        "9999-12-30T23:00:00-01:00",
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:60Z",
    ],
)
def test_times_as_text_outside_the_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^occurred_at "):
        read_time(text.encode())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (wire.timestamp(1), wire.EPOCH + timedelta(seconds=1)),
        (wire.timestamp(0, 1_000), wire.EPOCH + timedelta(microseconds=1)),
        (wire.timestamp(-1), wire.EPOCH - timedelta(seconds=1)),
        (wire.timestamp(-1, 999_999_999), wire.EPOCH - timedelta(microseconds=1)),
        (wire.timestamp(1_767_322_800, 123_456_789), datetime(2026, 1, 2, 3, 0, 0, 123456, tzinfo=UTC)),
        (wire.timestamp(1, 999), wire.EPOCH + timedelta(seconds=1)),
        (wire.number_field(1, 0), wire.EPOCH),
        (wire.number_field(2, 0), wire.EPOCH),
        (wire.number_field(2, 5_000) + wire.number_field(1, 7), wire.EPOCH + timedelta(seconds=7, microseconds=5)),
        (wire.timestamp(7) + wire.bytes_field(3, b"later"), wire.EPOCH + timedelta(seconds=7)),
    ],
)
def test_a_timestamp_is_read_and_cut_to_the_microsecond(raw: bytes, expected: datetime) -> None:
    assert read_time(raw) == expected


@pytest.mark.parametrize("nanos", [-1, 1_000_000_000, -(2**31), 2**31 - 1, 2**32 + 5, 2**32 - 1])
def test_nanoseconds_outside_a_second_are_refused(nanos: int) -> None:
    with pytest.raises(ValueError, match=r"^occurred_at "):
        read_time(wire.timestamp(1_767_322_800, nanos))


@pytest.mark.parametrize("nanos", [0, 1, 999_999_999])
def test_nanoseconds_inside_a_second_are_accepted(nanos: int) -> None:
    assert read_time(wire.timestamp(1_767_322_800, nanos)).microsecond == nanos // 1000


def test_a_timestamp_is_accepted_at_the_limits_and_refused_beyond() -> None:
    first, last = seconds_since_1970(FIRST), seconds_since_1970(LAST)
    assert read_time(wire.timestamp(first)) == FIRST
    assert read_time(wire.timestamp(last, 999_999_999)) == LAST
    for beyond in (wire.timestamp(first - 1, 999_999_999), wire.timestamp(last + 1)):
        with pytest.raises(ValueError, match=r"^occurred_at is outside"):
            read_time(beyond)


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), 2**53, -(2**53), 253_402_300_800])
def test_a_timestamp_beyond_any_calendar_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match=r"^occurred_at is outside"):
        read_time(wire.timestamp(seconds))


@pytest.mark.parametrize(
    "raw",
    [
        wire.timestamp(1_767_322_800)[:-1],
        wire.tag(1, wire.VARINT),
        wire.tag(1, wire.VARINT) + b"\xff" * 11,
        wire.fixed64_field(1, 1_767_322_800),
        wire.bytes_field(1, b"2026"),
        wire.bytes_field(3, b"neither"),
        b"\xff",
        b"\0",
        b"Z",
    ],
)
def test_bytes_that_are_neither_form_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^occurred_at "):
        read_time(raw)
