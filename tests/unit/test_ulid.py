"""ULIDs: which texts are ULIDs, the time in them, and made-up ULIDs from which a stream starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from eventstore import ulid
from tests import wire

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
GOOD = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize("text", [GOOD, "0" * 26, "7" + "Z" * 25, "7" + "0" * 25])
def test_upper_case_ulids_are_accepted(text: str) -> None:
    assert ulid.is_ulid(text)


@pytest.mark.parametrize("digit", wire.CROCKFORD)
def test_every_digit_of_the_alphabet_is_accepted_after_the_first(digit: str) -> None:
    assert ulid.is_ulid("0" + digit * 25)


@pytest.mark.parametrize("digit", wire.CROCKFORD)
def test_the_first_digit_ends_at_7_where_128_bits_end(digit: str) -> None:
    assert bool(ulid.is_ulid(digit + "0" * 25)) is (digit in "01234567")


@pytest.mark.parametrize("letter", "ILOU")
@pytest.mark.parametrize("place", [0, 1, 13, 25])
def test_letters_outside_the_alphabet_are_refused_everywhere(letter: str, place: int) -> None:
    assert not ulid.is_ulid(GOOD[:place] + letter + GOOD[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD[:25],
        GOOD + "0",
        GOOD.lower(),
        GOOD[:25] + "v",
        GOOD + "\n",
        " " + GOOD[1:],
        "\u0660" + GOOD[1:],  # a digit, but not of this alphabet
        "0" * 25 + "\u0661",
        "\uff10" + "0" * 25,
        GOOD[:25] + "\0",
        GOOD[:12] + "-" + GOOD[13:],
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    assert not ulid.is_ulid(text)


def test_the_time_is_decoded_as_it_was_encoded() -> None:
    assert ulid.time_of(wire.ulid_at(MOMENT, tail=2**80 - 1)) == MOMENT


@pytest.mark.parametrize("milliseconds", [0, 1, 31, 32, 1_767_322_800_000, 2**48 - 1])
def test_the_milliseconds_are_those_that_another_encoder_wrote(milliseconds: int) -> None:
    assert ulid.time_milliseconds(wire.ulid_of(milliseconds)) == milliseconds
    assert ulid.time_milliseconds(wire.ulid_of(milliseconds, tail=2**80 - 1)) == milliseconds


def test_a_time_after_the_year_9999_is_none() -> None:
    end = (datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC) - wire.EPOCH) // timedelta(milliseconds=1)
    assert ulid.time_of(wire.ulid_of(end)) is not None
    assert ulid.time_of(wire.ulid_of(end + 1)) is None
    assert ulid.time_of("7" + "Z" * 25) is None


def test_the_first_ulid_of_a_moment_is_the_smallest_one() -> None:
    assert ulid.first_ulid_at(MOMENT) == wire.ulid_at(MOMENT)
    assert ulid.first_ulid_at(MOMENT + timedelta(microseconds=999)) == wire.ulid_at(MOMENT)
    assert ulid.first_ulid_at(MOMENT + timedelta(milliseconds=1)) > wire.ulid_at(MOMENT, tail=2**80 - 1)
    assert ulid.is_ulid(ulid.first_ulid_at(MOMENT))


def test_a_moment_before_1970_gives_1970() -> None:
    assert ulid.first_ulid_at(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == "0" * 26
    assert ulid.first_ulid_at(wire.EPOCH) == "0" * 26
