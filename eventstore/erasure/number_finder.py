"""Finds phone numbers in bytes: as UTF-8 text, wherever they are, and as the varint of a protobuf."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

FEW = 8
"""Up to so many forms, each is searched by itself, which is faster than one search for all."""
MIN_LETTERS = 5
"""Shorter texts would be found everywhere: in times, ids and counts."""

_Trie: TypeAlias = dict[int, "_Trie"]
_END = -1


class NumberFinder:
    """Searches bytes for any of some numbers.

    Attributes:
        longest: the bytes of the longest form; of what is searched piece by piece, so many bytes less one must overlap.

    """

    def __init__(self, numbers: Iterable[str]) -> None:
        forms = {form for number in numbers if len(number) >= MIN_LETTERS for form in _forms(number)}
        self.longest = max(map(len, forms), default=0)
        self._few = sorted(forms) if len(forms) <= FEW else []
        self._pattern = re.compile(_pattern(forms), re.DOTALL) if len(forms) > FEW else None

    def is_in(self, data: bytes) -> bool:
        """Return whether any of the numbers is in some bytes."""
        if self._pattern is not None:
            return self._pattern.search(data) is not None
        return any(form in data for form in self._few)

    def find_in(self, data: bytes) -> Iterator[bytes]:
        """Yield what was found in some bytes, without overlaps."""
        if self._pattern is not None:
            yield from self._pattern.findall(data)
            return
        for form in self._few:
            yield from [form] * data.count(form)


def _forms(number: str) -> Iterator[bytes]:
    yield number.encode()
    digits = number.lstrip("+")
    if digits.isascii() and digits.isdigit() and len(digits) >= MIN_LETTERS + 2:
        yield _varint(int(digits))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _pattern(forms: Iterable[bytes]) -> bytes:
    """Return a pattern that tries no two forms with the same beginning one after the other."""
    root: _Trie = {}
    for form in forms:
        node = root
        for byte in form:
            node = node.setdefault(byte, {})
        node[_END] = {}
    return _of_trie(root)


def _of_trie(node: _Trie) -> bytes:
    if _END in node:  # a longer form begins with this one, which is found first
        return b""
    branches = [re.escape(bytes([byte])) + _of_trie(rest) for byte, rest in sorted(node.items())]
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"
