"""The token that an erased person gets: it stands where the phone number stood, and says nothing about it."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from ulid import ULID

TOKEN_PREFIX = "erased:"  # noqa: S105 - not a secret: it marks a pseudonym
TOKEN_PATTERN = f"^{TOKEN_PREFIX}[0-7][0-9A-HJKMNP-TV-Z]{{25}}$"
"""What every token matches, for Python and for Postgres."""

_SHAPE = re.compile(TOKEN_PATTERN.removeprefix("^").removesuffix("$"))

is_token = _SHAPE.fullmatch
"""A match when a text has the form of a token, else None."""


def new_token_of_person() -> str:
    """Return a token that no other person has: the time of now, and 80 random bits."""
    milliseconds = int(datetime.now(UTC).timestamp() * 1000)
    return f"{TOKEN_PREFIX}{ULID.from_bytes(milliseconds.to_bytes(6, 'big') + secrets.token_bytes(10))}"
