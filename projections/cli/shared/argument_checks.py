"""Checks of values on the command line that would otherwise fail late, or never."""

from __future__ import annotations

import math
from collections.abc import Sequence

import typer

LONGEST_SECONDS = 3_153_600_000.0
"""A hundred years."""


def seconds(value: float | None) -> float | None:
    """Return a number of seconds that timers can use.

    Raises:
        typer.BadParameter: it is not a number (``nan``), or longer than a hundred years.

    """
    if value is not None and not (math.isfinite(value) and value <= LONGEST_SECONDS):
        raise typer.BadParameter(f"{value!r} is not a number of seconds up to a hundred years")
    return value


def storable_text(value: str | None) -> str | None:
    """Return a text that Postgres can store.

    Raises:
        typer.BadParameter: its bytes are not UTF-8.

    """
    if value is not None and not _is_utf8(value):
        raise typer.BadParameter(f"{value!r} is not UTF-8")
    return value


def storable_texts(values: Sequence[str]) -> Sequence[str]:
    """Return texts that Postgres can store; see :func:`storable_text`."""
    for value in values:
        storable_text(value)
    return values


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
