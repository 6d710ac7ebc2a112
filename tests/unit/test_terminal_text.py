"""Printed text has no characters that a terminal obeys or hides; JSON is exact; unencodable characters are replaced."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.terminal_text import UNSAFE, json_text, replace_unencodable, traceback_lines, visible

HOSTILE = "\x1b[31mred \x1b]0;title\x07 \x9b2J \u202egnp.exe \u2066 \u200b \u2028 \ud800 \x00\r\n\tend"


def test_every_control_format_and_separator_character_of_unicode_is_escaped() -> None:
    wrong = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and not UNSAFE.match(chr(code))
    ]
    assert wrong == []


def test_an_escape_shows_which_character_it_replaces() -> None:
    assert visible("a\x1b\n\x9b\u202e\U000e0041\ud800z") == "a\\x1b\\n\\x9b\\u202e\\U000e0041\\ud800z"


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界 → ← … 😀", "C:\\new", "a  b"])
def test_other_characters_are_unchanged(text: str) -> None:
    assert visible(text) == text


@given(st.text())
def test_the_shown_text_is_one_line_without_unsafe_characters(text: str) -> None:
    assert not UNSAFE.search(visible(text))
    assert len(visible(text).splitlines()) <= 1


class Stream(io.TextIOWrapper):
    """A stream with an encoding, which keeps what was written to it."""

    def __init__(self, encoding: str, errors: str = "strict") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)

    @property
    def written(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@given(st.text(), st.sampled_from(["utf-8", "latin-1", "ascii", "cp1252"]))
def test_json_is_exact_and_safe_on_every_stream(text: str, encoding: str) -> None:
    stream = Stream(encoding)
    written = json_text({"key": [text]}, indent=2, stream=stream)
    stream.write(written)
    assert json.loads(stream.written) == {"key": [text]}
    assert not UNSAFE.search(written.replace("\n", ""))


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "a -> b <- ... \\xe9 \\u4e16 \\U0001f600 +-+"),
        ("latin-1", "a -> b <- ... é \\u4e16 \\U0001f600 +-+"),
        ("utf-8", "a → b ← … é 世 😀 ┌─┐"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_characters_that_a_stream_cannot_encode_are_replaced(encoding: str, shown: str, errors: str) -> None:
    stream = Stream(encoding, errors)
    replace_unencodable(stream, io.StringIO())
    stream.write("a → b ← … é 世 😀 ┌─┐")
    assert stream.written == shown


def test_an_error_message_is_one_line_of_a_traceback() -> None:
    error = ValueError(HOSTILE)
    error.__cause__ = OSError("first\nsecond")
    lines = traceback_lines(error)
    assert not [line for line in lines if UNSAFE.search(line)]
    assert "OSError: first\\nsecond" in lines
    assert lines[-1].startswith("ValueError: \\x1b[31mred ")
