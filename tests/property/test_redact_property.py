"""Redaction removes phone numbers in any form from text of others, and keeps ids, times and positions."""

from __future__ import annotations

import html
import json
import re
import string
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from eventstore.redaction.redact import MASK, hide_secrets, redact

NUMBERS = st.text("0123456789", min_size=8, max_size=15)
SEPARATORS = [
    "",
    " ",
    "-",
    ".",
    "/",
    "\u00a0",
    "\u2009",
    "\u2011",
    "\u200b",
    ") ",
    " (",
    " - ",
    "\u2060",
    "_",
    "\u3000",
]
ZEROES = ["0", "\uff10", "\u0660", "\u06f0", "\u0966", "\U0001d7ce"]
ENCODINGS: list[Callable[[str], str]] = [
    str,
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    html.escape,
    json.dumps,
    lambda text: "".join(f"&#{ord(char)};" for char in text),
]
WORDS = st.text(string.ascii_letters, min_size=1, max_size=8).filter(lambda word: word.lower() not in {"v", "version"})
ULIDS = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from("01234567"),
    st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=25, max_size=25),
).filter(lambda ulid: not ulid.isdigit())
TIMES = st.datetimes(datetime(1000, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - with a zone
DATE = re.compile(r"(19|20)\d\d-[01]\d-[0-3]\d")


@st.composite
def written_numbers(draw: st.DrawFn) -> tuple[str, str]:
    """A phone number, and a form in which it may be written."""
    digits = draw(NUMBERS)
    zero = draw(st.sampled_from(ZEROES))
    separators = st.sampled_from(draw(st.lists(st.sampled_from(SEPARATORS), min_size=1, max_size=3)))
    shown = "".join(chr(ord(zero) + int(digit)) + draw(separators) for digit in digits[:-1])
    shown += chr(ord(zero) + int(digits[-1]))
    prefix = draw(st.sampled_from(["", "+", "00", "(", "+(", "tel:"]))
    return digits, prefix + shown


@given(written_numbers(), WORDS, WORDS, st.sampled_from(ENCODINGS))
def test_redaction_removes_every_phone_number(
    written: tuple[str, str], before: str, after: str, encode: object
) -> None:
    digits, shown = written
    assert callable(encode)
    redacted = redact(encode(f"{before} {shown} {after}"))
    if not DATE.search(shown):
        assert MASK in redacted
    left = "".join(str(unicodedata.digit(char)) for char in redacted.replace(MASK, "x") if char.isdigit())
    assert digits not in left or DATE.search(shown)


@given(st.lists(st.one_of(ULIDS, TIMES.map(datetime.isoformat), st.uuids().map(str), WORDS), min_size=1))
def test_redaction_keeps_ids_and_times(parts: list[str]) -> None:
    text = ", ".join(parts)
    assert redact(text) == text


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_positions_are_kept_in_our_own_texts(first: int, last: int) -> None:
    text = f"positions {first}..{last} missing, {first:,} of {last:,} events"
    assert hide_secrets(text) == text


@given(st.text())
def test_any_text_is_redacted_without_an_error(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
