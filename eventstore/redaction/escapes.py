"""Views of a text with its escapes resolved; each character is mapped back to its place in the original.

An upstream that repeats what it was sent may write it percent-encoded, HTML-escaped, JSON-escaped, as a Python or
protobuf literal, or in several of these ways at once. A search in all views finds a value in any of these forms and any
mix of them, and the map gives the part of the original to hide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.entities import html5
from typing import NamedTuple

MAX_LAYERS = 5
"""How many layers of escapes are resolved."""
MAX_VIEWS = 40

_PERCENT = re.compile(r"(?P<percent>(?:%[0-9A-Fa-f]{2})+)")
_HTML = re.compile(
    r"&\#(?P<decimal>[0-9]{1,7});?|&\#[xX](?P<reference>[0-9A-Fa-f]{1,6});?|&(?P<entity>[A-Za-z][A-Za-z0-9]{1,31};)"
)
_BACKSLASH = re.compile(
    r"(?P<hex>(?:\\x[0-9A-Fa-f]{2})+)"
    r"|(?P<octal>(?:\\[0-3][0-7]{2})+)"
    r"|(?P<utf16>(?:\\u[0-9A-Fa-f]{4})+)"
    r"|\\U(?P<utf32>[0-9A-Fa-f]{8})"
    r"|\\(?P<backslash>[^0-9xuU])",
    re.DOTALL,
)
# One kind after another, never several at once: a secret may itself look like an escape of another kind.
_KINDS = {"%": _PERCENT, "&": _HTML, "\\": _BACKSLASH}
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WRAPPED = re.compile(r"\S{40}\s+\S")
"""A line so long that it may have been broken within a word."""


class TextView(NamedTuple):
    """A text, and for each of its characters where it begins and ends in the original."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def original(self, begin: int, end: int) -> tuple[int, int]:
        """Return the span of the original for a span of this view."""
        return self.starts[begin], self.ends[end - 1]


class _Char(NamedTuple):
    char: str
    begin: int
    end: int


def views(text: str) -> Iterator[TextView]:
    """Yield the text itself, then the text with layers of escapes resolved, in each order that makes a difference."""
    layer = [TextView(text, range(len(text)), range(1, len(text) + 1))]
    seen = {text}
    yield layer[0]
    for _ in range(MAX_LAYERS):
        below: list[TextView] = []
        for view in layer:
            for sign, escape in _KINDS.items():
                resolved = _resolved(view, escape) if sign in view.text and len(seen) < MAX_VIEWS else None
                if resolved is not None and resolved.text not in seen:
                    seen.add(resolved.text)
                    below.append(resolved)
                    yield resolved
        layer = below


def without_blanks(view: TextView) -> TextView | None:
    """Return the view without white space, for words broken over several lines; None when no line is long enough."""
    if not _WRAPPED.search(view.text):
        return None
    kept = [number for number, char in enumerate(view.text) if not char.isspace()]
    return TextView(
        "".join(view.text[number] for number in kept),
        [view.starts[number] for number in kept],
        [view.ends[number] for number in kept],
    )


def _resolved(view: TextView, escape: re.Pattern[str]) -> TextView | None:
    texts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    last = 0
    for match in escape.finditer(view.text):
        chars = _meaning(match)
        if not chars:
            continue
        texts.append(view.text[last : match.start()])
        starts += view.starts[last : match.start()]
        ends += view.ends[last : match.start()]
        for char in chars:
            texts.append(char.char)
            starts += [view.starts[char.begin]] * len(char.char)
            ends += [view.ends[char.end - 1]] * len(char.char)
        last = match.end()
    if not last:
        return None
    texts.append(view.text[last:])
    starts += view.starts[last:]
    ends += view.ends[last:]
    return TextView("".join(texts), starts, ends)


def _meaning(match: re.Match[str]) -> list[_Char]:
    """Return the characters of an escape; none if it isn't a valid escape."""
    kind, written, begin = match.lastgroup or 0, match[0], match.start()
    if kind == "percent":
        return _of_bytes(bytes.fromhex(written.replace("%", "")), begin, 3)
    if kind == "hex":
        return _of_bytes(bytes.fromhex(written.replace("\\x", "")), begin, 4)
    if kind == "octal":
        return _of_bytes(bytes(int(octal, 8) for octal in written[1:].split("\\")), begin, 4)
    if kind == "utf16":
        return _of_units([int(unit, 16) for unit in written[2:].split("\\u")], begin)
    if kind == "entity":
        char = html5.get(match["entity"], "")
    elif kind == "backslash":
        char = _LETTERS.get(match["backslash"], match["backslash"])
    else:
        code = int(match[kind], 10 if kind == "decimal" else 16)
        char = chr(code) if code <= 0x10FFFF else ""
    return [_Char(char, begin, match.end())] if char else []


def _of_bytes(data: bytes, begin: int, width: int) -> list[_Char]:
    chars = []
    # A byte that isn't UTF-8 is kept as it is.
    for char in data.decode(errors="surrogateescape"):
        length = 1 if "\udc80" <= char <= "\udcff" else len(char.encode())
        end = begin + length * width
        chars.append(_Char(char, begin, end))
        begin = end
    return chars


def _of_units(units: list[int], begin: int) -> list[_Char]:
    chars = []
    data = b"".join(unit.to_bytes(2, "big") for unit in units)
    for char in data.decode("utf-16-be", errors="surrogatepass"):
        end = begin + 6 * (2 if ord(char) > 0xFFFF else 1)
        chars.append(_Char(char, begin, end))
        begin = end
    return chars
