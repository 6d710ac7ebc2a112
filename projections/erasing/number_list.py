"""Reads the phone numbers of persons to be erased: from the command line, a file or standard input.

Invariant. A number is never repeated in a message: a line is named by its number in the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from eventstore.contracts.decode import MAX_ID_BYTES
from eventstore.erasure.erasure_token import is_token
from eventstore.errors import UsageError

MAX_INPUT_BYTES = 256 * 2**20


def read_numbers(given: Sequence[str], file: Path | None) -> list[str]:
    """Return the different numbers, in their order.

    Args:
        given: those of the command line.
        file: a file with one number a line; ``-`` for standard input. A byte order mark, empty lines, and those that
            begin with #, are ignored.

    Raises:
        UsageError: the file can't be read, or a line can't be a number that an event has.

    """
    numbers = [_check(number, f"argument {place}") for place, number in enumerate(given, 1)]
    if file is not None:
        name = "standard input" if str(file) == "-" else str(file)
        for place, line in enumerate(_read_lines(file, name), 1):
            number = line.strip()
            if number and not number.startswith("#"):
                numbers.append(_check(number, f"{name}, line {place:,}"))
    return list(dict.fromkeys(numbers))


def _read_lines(file: Path, name: str) -> Iterable[str]:
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name} can't be read: {error.strerror}") from error
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(f"{name} is longer than {MAX_INPUT_BYTES // 2**20} MiB; split it")
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text") from error


def _check(number: str, place: str) -> str:
    if is_token(number):
        raise UsageError(f"{place}: this is the token of a person who is erased already")
    try:
        size = len(number.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MAX_ID_BYTES or "\0" in number:
        raise UsageError(f"{place}: a number has 1 to {MAX_ID_BYTES} bytes of UTF-8 text without U+0000")
    return number
