"""How a value of a row is written for people."""

from __future__ import annotations

from datetime import UTC, datetime


def format_value(value: object) -> str:
    """Return a value as text: NULL, times in UTC, and quotes around texts that would be invisible or ambiguous."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return value if value and value == value.strip() and value != "NULL" else repr(value)
    return str(value)
