"""Shared by tests of ingest: builds logs of encoded events, runs followers, and reads what they stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.contracts import Contract
from eventstore.ingest.address import Address
from eventstore.ingest.context import IngestContext
from eventstore.ingest.credentials import FixedToken, TokenSource
from eventstore.ingest.follow_apps import Outcome, follow
from eventstore.ingest.follower import Follower
from eventstore.ingest.upstream import NO_TLS, Tls, Upstream
from eventstore.waits import Waits
from projections.sandbox.simulator import SimulatedEvent
from tests import store, wire
from tests.fix_simulator import TOKEN
from tests.queries import fetch_all, fetch_row
from tests.store import APP, CHAT, PCS

QUICK = Waits(
    backoff_first=0.004,
    backoff_cap=0.02,
    normal_end_cap=0.02,
    settle=0.02,
    database_backoff_cap=0.05,
    database_connect=30,
    append_lock=2,
    idle_in_transaction=60,
    leader_heartbeat=0.1,
    leader_timeout=60,
    standby=0.03,
    shutdown=3,
)
REQUEST = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
IDLE = 0.35
"""Seconds without a new event after which a test assumes that the stream was read to its end."""


def log_entry(event_id: str, *contracts: Contract, ppnum: str = "12300000001", more: bytes = b"") -> SimulatedEvent:
    """Return a log entry, encoded by hand in each of these contracts, or in both if none is given."""
    moment = wire.EPOCH + timedelta(milliseconds=1_767_225_600_123)
    times: dict[Contract, str | bytes] = {CHAT: wire.rfc3339(moment), PCS: wire.timestamp_of(moment)}
    payloads = {
        contract: wire.event(event_id, recipient=wire.recipient(ppnum), occurred_at=times[contract], more=more)
        for contract in contracts or Contract
    }
    return SimulatedEvent(event_id, REQUEST, payloads)


def log_of(
    count: int, *contracts: Contract, spacing_ms: int = 1, ago: float = 3600, more: bytes = b""
) -> list[SimulatedEvent]:
    """Return entries with ULIDs ``spacing_ms`` apart; the first is ``ago`` seconds old."""
    first = datetime.now(UTC) - timedelta(seconds=ago)
    ids = (wire.ulid_at(first + timedelta(milliseconds=at * spacing_ms), tail=at) for at in range(count))
    return [log_entry(event_id, *contracts, more=more) for event_id in ids]


def payloads(log: Iterable[SimulatedEvent], contract: Contract) -> list[bytes]:
    return [item.payloads[contract] for item in log]


def follower(
    url: str,
    address: str,
    *,
    app: str = APP,
    contract: Contract | None = CHAT,
    tokens: TokenSource | None = None,
    since: str | None = None,
    tls: Tls = NO_TLS,
    waits: Waits = QUICK,
    limits: QuarantineLimits = DEFAULT_LIMITS,
) -> Follower:
    upstream = Upstream(app, Address.parse(address), tokens or FixedToken(TOKEN), contract, since, tls)
    return Follower(IngestContext(url, waits, limits), upstream)


def quick_waits(**changed: float) -> Waits:
    """Return short timeouts, with some of them changed."""
    return Waits.model_validate(QUICK.model_dump() | changed)


class Running:
    """An ingest that runs as a task in this process."""

    def __init__(
        self, followers: Sequence[Follower], waits: Waits, until_idle: float | None, give_up_after: float | None = None
    ) -> None:
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(
            follow(followers, stop=self._stop, waits=waits, until_idle=until_idle, give_up_after=give_up_after)
        )

    async def stop(self) -> Outcome:
        """Stop the ingest and return its outcome."""
        self._stop.set()
        return await self.outcome()

    async def outcome(self) -> Outcome:
        """Wait until the ingest ends; return its outcome."""
        async with asyncio.timeout(store.GIVE_UP):
            return await self._task

    async def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition is true; fail if the ingest ends first."""

        async def holds() -> bool:
            if self._task.done():
                raise AssertionError(f"the ingest ended before {what}: {self._task.result()}")
            return bool(condition())

        await store.wait_until(holds, what)

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def following(
    *followers: Follower, waits: Waits = QUICK, until_idle: float | None = None, give_up_after: float | None = None
) -> AsyncIterator[Running]:
    running = Running(followers, waits, until_idle, give_up_after)
    try:
        yield running
    finally:
        await running.aclose()


async def ingest(
    *followers: Follower, waits: Waits = QUICK, until_idle: float = IDLE, give_up_after: float | None = None
) -> Outcome:
    """Follow until idle, until all apps are refused, or until the run gives up."""
    async with following(*followers, waits=waits, until_idle=until_idle, give_up_after=give_up_after) as running:
        return await running.outcome()


async def stored_payloads(conn: AsyncConnection, app: str = APP) -> list[bytes]:
    """Return an app's payloads in order of position; fails unless the positions of all apps are gapless from 1."""
    await store.positions(conn)
    query = "SELECT payload FROM eventstore.events WHERE app = %s ORDER BY position"
    rows = await fetch_all(conn, query, [app], binary=True)  # as text, each byte would be two digits
    return [row[0] for row in rows]


async def cursor_row(conn: AsyncConnection, app: str = APP) -> dict[str, Any]:
    """Return an app's row of ``cursors``."""
    query = "SELECT contract, last_event_id, holes, epoch, last_error FROM eventstore.cursors WHERE app = %s"
    row = await fetch_row(conn, query, [app])
    assert row is not None
    return dict(zip(("contract", "cursor", "holes", "epoch", "error"), row, strict=True))


async def count_events(conn: AsyncConnection, app: str = APP) -> int:
    count = await store.value(conn, "SELECT count(*) FROM eventstore.events WHERE app = %s", app)
    assert isinstance(count, int)
    return count
