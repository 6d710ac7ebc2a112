"""How a value of a row is written for people."""

from __future__ import annotations

from datetime import UTC, datetime


def shown(value: object) -> str:
    """Write a value: NULL, times in UTC, texts in quotes where they would be nothing or look like another thing."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return value if value and value == value.strip() and value != "NULL" else repr(value)
    return str(value)
