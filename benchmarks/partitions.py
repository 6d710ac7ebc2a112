"""Measures what partitions of the log cost: an append, and the way of an event to the read models."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from benchmarks.append import BATCH, append_in_batches
from benchmarks.events import EVENTS, MIX, decoded, simulated
from benchmarks.harness import Postgres, Result, interleaved, result
from benchmarks.live import PER_SECOND, delays_until_folded, fold, percentile
from projections.migrating.partition_log import partition_log

PARTITION_EVENTS = 50_000_000
"""As docs/partitions.md advises for a log of some hundred million events; the append stays in one partition."""
SHORT_EVENTS = 50_000
"""With partitions so short, the append crosses three bounds, and makes the next partition at each."""
MANY, FEW_EVENTS = 100, 200
"""The live measurement has so many partitions of so few events, and passes through sixty of them."""
REFERENCE = "the same on a log of one table"


class ManyPartitions(Postgres):
    """A server whose databases have logs of many partitions."""

    def create(self) -> str:
        """Create a migrated database with partitions, and return its URL."""
        url = super().create()
        partition_log(url, FEW_EVENTS)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("SELECT eventstore.make_partitions(%s)", [(MANY - 2) * FEW_EVENTS])
        return url


def append_partitioned(postgres: Postgres) -> Result:
    """Append 200,000 decoded events in batches of 5,000 to a log in partitions of 50,000,000."""
    return _append("append_partitioned", postgres, PARTITION_EVENTS)


def append_short_partitions(postgres: Postgres) -> Result:
    """Append the same events to a log in partitions of 50,000."""
    return _append("append_short_partitions", postgres, SHORT_EVENTS)


def _append(name: str, postgres: Postgres, partition_events: int) -> Result:
    events = decoded(simulated())

    def ours(_round: int) -> float:
        with postgres.database() as url:
            partition_log(url, partition_events)
            return len(events) / asyncio.run(append_in_batches(url, events))

    def reference(_round: int) -> float:
        with postgres.database() as url:
            return len(events) / asyncio.run(append_in_batches(url, events))

    mine, theirs = interleaved(ours, reference)
    detail = _detail(postgres) | {
        "events": EVENTS,
        "mix": MIX,
        "batch": BATCH,
        "partition_events": partition_events,
    }
    return result(name, "events/s", REFERENCE, mine, theirs, detail)


def live_partitioned(postgres: Postgres) -> Result:
    """Append 200 events a second for a minute to a log of 100 partitions; measure the way to the read models."""
    ours = delays_until_folded(ManyPartitions(postgres.url), fold)
    theirs = delays_until_folded(postgres, fold)
    value, reference = percentile(ours, 50), percentile(theirs, 50)
    detail = _detail(postgres) | {
        "events": len(ours),
        "per_second": PER_SECOND,
        "partition_events": FEW_EVENTS,
        "p99_ms": round(percentile(ours, 99), 2),
        "reference_p99_ms": round(percentile(theirs, 99), 2),
    }
    unit = "ms (p50; less is better)"
    return Result("live_partitioned", value, unit, REFERENCE, reference, value / reference, detail)


def _detail(postgres: Postgres) -> dict[str, Any]:
    return {"settings": postgres.settings(), "versions": postgres.versions()}
