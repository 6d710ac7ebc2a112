"""Finds phone numbers in bytes: given ones as text and as the varint of a protobuf, or whatever may be one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

MIN_LETTERS = 5
"""Shorter texts would be found everywhere: in times, ids and counts."""
FEW = 8
"""Up to so many forms, each is searched by itself, which is faster than one search for all."""

MAX_CANDIDATES = 2_000
"""So many texts of one message are looked at."""

_DIGITS = re.compile(rb"\+?[0-9]{7,}")
_LENGTHS = range(7, 16)

# Every digit as one byte and everything else as another one, so that a run of digits is found as a constant text.
_CLASSES = bytes(ord("d") if chr(byte).isascii() and chr(byte).isdigit() else ord(" ") for byte in range(256))


def is_too_short(number: str) -> bool:
    """Return whether a number would be found everywhere, so that it isn't searched."""
    return len(number) < MIN_LETTERS


def possible_numbers(data: bytes) -> list[str]:
    """Return every text of 7 to 15 digits in some bytes, inside longer runs of digits too, and after a plus."""
    return list(dict.fromkeys(islice(_texts_of_digits(data), MAX_CANDIDATES)))


def _texts_of_digits(data: bytes) -> Iterator[str]:
    for found in _DIGITS.finditer(data):
        run = found[0].decode()
        digits = run.removeprefix("+")
        for length in _LENGTHS:
            if digits != run and len(digits) >= length:
                yield run[: length + 1]
            for start in range(len(digits) - length + 1):
                yield digits[start : start + length]


class NumberFinder:
    """Searches bytes for any of some numbers.

    Args:
        numbers: the numbers; those of fewer than :data:`MIN_LETTERS` letters are not searched.
        varints: whether to search for the numbers as protobuf numbers too, which is slow for many numbers.

    """

    def __init__(self, numbers: Iterable[str], *, varints: bool = False) -> None:
        long = {number for number in numbers if not is_too_short(number)}
        digits = {number.encode() for number in long if number.isascii() and number.isdigit()}
        others = {number.encode() for number in long} - digits
        if varints:
            others |= {varint for number in long for varint in _varint_of(number)}
        if len(digits) <= FEW:
            others, digits = others | digits, set()
        self._digits = frozenset(digits)
        self._lengths = sorted({len(number) for number in digits})
        self._run = b"d" * min(self._lengths, default=0)
        self._others = _by_length(others) if len(others) > FEW else {}
        self._few = tuple(others) if len(others) <= FEW else ()

    def is_in(self, data: bytes) -> bool:
        """Return whether any of the numbers is in some bytes."""
        if any(form in data for form in self._few) or (self._digits and self._has_digits(data)):
            return True
        return any(
            data[start : start + length] in forms
            for length, forms in self._others.items()
            for start in range(len(data) - length + 1)
        )

    def _has_digits(self, data: bytes) -> bool:
        classes = data.translate(_CLASSES)
        start = classes.find(self._run)
        while start >= 0:
            end = classes.find(b" ", start)
            end = len(data) if end < 0 else end
            for length in self._lengths:
                for at in range(start, end - length + 1):
                    if data[at : at + length] in self._digits:
                        return True
            start = classes.find(self._run, end)
        return False


def _varint_of(number: str) -> Iterator[bytes]:
    digits = number.lstrip("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) >= MIN_LETTERS + 2):
        return
    value = int(digits)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    yield bytes(out)


def _by_length(forms: Iterable[bytes]) -> dict[int, frozenset[bytes]]:
    found: dict[int, set[bytes]] = {}
    for form in forms:
        found.setdefault(len(form), set()).add(form)
    return {length: frozenset(those) for length, those in found.items()}
