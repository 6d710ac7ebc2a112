"""What all parts of an ingest share."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.waits import Waits


@dataclass(frozen=True, slots=True)
class IngestContext:
    """What all parts of an ingest share.

    Attributes:
        url: the database.
        waits: the timeouts and intervals.
        limits: how much the quarantine keeps.
        key: the erasure key; None without one.

    """

    url: str
    waits: Waits
    limits: QuarantineLimits = DEFAULT_LIMITS
    key: ErasureKey | None = field(default=None, repr=False)
