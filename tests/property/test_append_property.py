"""After any sequence of batches by several appenders, the tables match a short Python model."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from eventstore.appending.append import Appended, Appender
from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.quarantine import Rejected
from eventstore.contracts import Contract, Event, decode
from eventstore.errors import ForeignEventId
from tests import store, wire

APPENDERS = 3
VARIANTS = 4
"""Variants of each event: two different values, each in the bytes of either contract."""

_rounds = count(1)
times = "2026-01-02T03:04:05Z"


@dataclass(frozen=True)
class Message:
    """A received message: an event in one of its variants, or garbage; perhaps of another app."""

    number: int
    variant: int
    garbage: bool
    foreign: bool


messages = st.builds(
    Message,
    st.integers(0, 5),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.sampled_from([False] * 5 + [True]),
    st.sampled_from([False] * 40 + [True]),
)
steps = st.tuples(
    st.integers(0, APPENDERS - 1), st.sampled_from([None, None, True, False]), st.lists(messages, max_size=8)
)


def event_of(message: Message, world: int) -> Event:
    """Decode the event: variants 0 and 2 have equal values, in either contract; 1 and 3 have other values."""
    contract = Contract.CHAT_EXTERNAL if message.variant < 2 else Contract.PCS_EXTERNAL_V1
    occurred_at = times if message.variant < 2 else wire.timestamp(1_767_323_045)
    ppnum = f"1230000000{message.variant % 2}"
    payload = wire.event(
        wire.ulid_of(1_767_225_600_000 + message.number, tail=world),
        recipient=wire.recipient(ppnum),
        occurred_at=occurred_at,
    )
    return decode(payload, f"foreign {world}" if message.foreign else f"app {world}", contract)


@dataclass
class Model:
    """The expected content of the tables, computed message by message."""

    stored: dict[str, Event] = field(default_factory=dict)
    quarantined: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    cursor: str | None = None

    def append(self, events: list[Event], rejected: list[Rejected]) -> tuple[int, int, int] | None:
        """Append a batch; returns the expected counts, or None if the batch is refused."""
        owner = dict(self.stored)
        for event in events:
            if owner.setdefault(event.event_id, event).app != event.app:
                return None
        new = repeated = 0
        contradicting: list[Event] = []
        for event in events:
            first = self.stored.setdefault(event.event_id, event)
            if first is event:
                new += 1
            elif first.payload == event.payload or (first.contract != event.contract and first.ppnum == event.ppnum):
                repeated += 1
            else:
                contradicting.append(event)
        for event in contradicting:
            self.quarantined[event.contract, event.payload] += 1
        for item in rejected:
            self.quarantined[item.contract, item.payload] += 1
        return new, repeated, len(contradicting) + len(rejected)


@pytest.fixture
async def connections(database_url: str) -> AsyncIterator[list[AsyncConnection]]:
    """A connection for each appender; each example has new appenders, as after a restart."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(store.connection(database_url)) for _ in range(APPENDERS)]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(sequence=st.lists(steps, min_size=1, max_size=10))
async def test_the_tables_match_the_model(
    conn: AsyncConnection,
    connections: list[AsyncConnection],
    sequence: list[tuple[int, bool | None, list[Message]]],
) -> None:
    world, model = next(_rounds), Model()
    app = f"app {world}"
    appenders = [Appender(own, store.QUICK) for own in connections]
    await store.set_epoch(conn, app)
    head = await store.count_gapless(conn)
    for who, probing, batch in sequence:
        events = [event_of(message, world) for message in batch if not message.garbage]
        rejected = [
            Rejected(app, Contract.CHAT_EXTERNAL.value, b"\xff%d" % message.number, "garbage")
            for message in batch
            if message.garbage
        ]
        last = events[-1].event_id if events else None
        appender = appenders[who]
        if probing is not None:
            appender.probing = probing
        expected = model.append(events, rejected)
        try:
            result = await appender.append(events, rejected=rejected, cursor=CursorMove(app, 1, last))
        except ForeignEventId:
            assert expected is None
        else:
            assert expected is not None
            head += expected[0]
            assert result == Appended(*expected, head)
            model.cursor = last or model.cursor
    rows = await conn.execute(
        "SELECT payload FROM eventstore.events WHERE app = ANY(%s) ORDER BY position", [[app, f"foreign {world}"]]
    )
    assert [row[0] for row in await rows.fetchall()] == [event.payload for event in model.stored.values()]
    rows = await conn.execute(
        "SELECT contract, payload, count FROM eventstore.quarantine WHERE app = ANY(%s)",
        [[app, f"foreign {world}"]],
    )
    found = {(contract, payload): times for contract, payload, times in await rows.fetchall()}
    assert found == model.quarantined
    assert await store.cursor_of(conn, app) == model.cursor
    assert await store.count_gapless(conn) == head
