"""Makes text safe to print on a terminal: characters that control it, or that hide or reorder text, are escaped.

Error codes, poll options, file names and other texts come from outside. They may contain terminal commands (ESC, C1),
line breaks that forge a line of our output, or characters that change the direction of text. Every line that a command
prints goes through :func:`visible`, once, where it is printed. JSON keeps the exact text: see :func:`json_text`.
"""

from __future__ import annotations

import codecs
import json
import re
import traceback
from collections.abc import Callable
from typing import Any, TextIO

# Categories Cc, Cf, Cs, Zl and Zp, and the other characters that Unicode defines as invisible. A test compares this
# with the tables of unicodedata.
UNSAFE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_REPLACEMENTS = {
    "→": "->",
    "←": "<-",
    "…": "...",
    "–": "-",  # noqa: RUF001 - the dash that is replaced
    "—": "-",
    "’": "'",  # noqa: RUF001 - the apostrophe that is replaced
    "•": "*",
}
"""ASCII replacements for characters that our own texts use."""
_BOXES = re.compile("[\u2500-\u257f]")
_HANDLER = "projections_replace"


def visible(text: str) -> str:
    """Return the text as one line, with escapes for characters that a terminal would interpret or not show."""
    return UNSAFE.sub(lambda match: _escaped(match[0]), text)


def json_text(
    value: Any,  # noqa: ANN401 - any JSON
    *,
    stream: TextIO,
    indent: int | None = None,
    default: Callable[[Any], Any] = str,
) -> str:
    """Return the exact value as JSON, with escapes for what a terminal would interpret or the stream can't encode."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, default=default)
    # Outside of strings, JSON has only the line breaks and spaces of the layout.
    return UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)


def traceback_lines(error: BaseException) -> list[str]:
    """Return a traceback as lines to print; an exception's message is one line, even if it contains line breaks."""
    lines: list[str] = []
    for part in traceback.format_exception(error):
        lines += part.rstrip("\n").split("\n") if part.startswith("  File ") else [part.strip("\n")]
    return [visible(line) for line in lines]


def replace_unencodable(*streams: TextIO) -> None:
    """Let these streams write a replacement for a character that they can't encode, instead of raising an error."""
    codecs.register_error(_HANDLER, _replaced)
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(char: str) -> str:
    if char in _REPLACEMENTS:
        return _REPLACEMENTS[char]
    if _BOXES.fullmatch(char):
        return "|" if char in "│┃║" else "-" if char in "─━═" else "+"
    return _escaped(char)
