"""Answers whether a number was erased, and what the person's consent was; only the erasure key makes that possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.erasure_rows import Erasure, find_erasures_of_number
from eventstore.postgres.queries import fetch_all

_CONSENT = """
SELECT app, status, decided_at FROM public.consent_registry WHERE ppnum = %s ORDER BY app
"""


@dataclass(frozen=True, slots=True)
class ConsentBefore:
    """What the person's consent was in an app: pending, granted, denied or expired."""

    app: str
    status: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class ErasedBefore:
    """One erasure of a number, and the person's consent until then."""

    erasure: Erasure
    consent: Sequence[ConsentBefore]


async def find_erased_before(conn: AsyncConnection[Any], ppnum: str, key: ErasureKey) -> list[ErasedBefore]:
    """Return the erasures of a number, the oldest first.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    return [
        ErasedBefore(one, [ConsentBefore(*row) for row in await fetch_all(conn, _CONSENT, [one.token])])
        for one in await find_erasures_of_number(conn, key.mac(ppnum))
    ]
