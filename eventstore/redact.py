"""Keeps tokens, secrets and phone numbers out of everything that is written for people to read."""

from __future__ import annotations

import re
from typing import Any

MASK = "[hidden]"

# A phone number has 11 or more digits, whatever stands around it (in a payload's repr, a length's last hex digit). A
# ULID may have as many in a row, and stays readable where it stands alone.
_PHONE_NUMBER = re.compile(r"(?<![0-9A-Za-z])([0-7][0-9A-HJKMNP-TV-Z]{25})(?![0-9A-Za-z])|\+?\d{11,}")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+(?!token\b)[A-Za-z0-9._~+/=-]+")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
_CONNINFO_PASSWORD = re.compile(r"(?i)\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)")

_secrets: set[str] = set()


def register_secret(value: str) -> None:
    """Never let this text through :func:`redact` from now on. One or two characters are no secret."""
    if len(value) > 2:
        _secrets.add(value)


def redact(text: str) -> str:
    """Return the text with secrets, credentials and phone numbers hidden."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _BEARER.sub(lambda match: f"{match[1]} {MASK}", text)
    text = _URL_PASSWORD.sub(lambda match: f"{match[1]}:{MASK}@", text)
    text = _CONNINFO_PASSWORD.sub(lambda match: f"{match[1]}{MASK}", text)
    return _PHONE_NUMBER.sub(lambda match: match[1] or MASK, text)


def redact_value(value: Any) -> Any:  # noqa: ANN401 - log fields are of any type
    """Return a log field's value with everything textual in it redacted."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return MASK if abs(value) >= 10**10 else value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return {redact_value(key): redact_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item) for item in value]
    return redact(str(value))
