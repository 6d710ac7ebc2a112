"""Duplicates are found in a batch and across batches; different bytes under a stored id are quarantined."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from psycopg import AsyncConnection

from eventstore.appending import copying, duplicates
from eventstore.appending.append import Appended, Appender
from eventstore.appending.append_lock import Head
from eventstore.appending.cursor_move import CursorMove
from eventstore.appending.duplicates import OTHER_BYTES, OTHER_VALUES
from eventstore.contracts import Event, decode
from eventstore.errors import ForeignEventId
from tests import store, wire
from tests.store import (
    APP,
    CHAT,
    PCS,
    chat_event,
    conflicting_event,
    cursor_of,
    garbage,
    new_events,
    next_ulid,
    pcs_event,
    quarantine_rows,
    stored_events,
    with_and_without_probing,
)

# Duplicates in one batch


async def test_the_first_of_repeated_events_in_a_batch_is_stored(appender: Appender, conn: AsyncConnection) -> None:
    a, b = new_events(2)
    for probing in (True, False):
        appender.probing = probing
        fresh = new_events(1)[0]
        assert (await appender.append([fresh, fresh, fresh]))[:3] == (1, 2, 0)
    assert await appender.append([a, b, a, b, a]) == Appended(stored=2, duplicates=3, quarantined=0, head=4)
    assert (await stored_events(conn))[2:] == [a, b]
    assert await quarantine_rows(conn) == []


@with_and_without_probing
async def test_the_first_of_different_events_under_one_id_is_stored_and_the_others_quarantined(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    appender.probing = probing
    a, b = new_events(2)
    other = conflicting_event(a)
    assert await appender.append([a, b, other, a, other]) == Appended(stored=2, duplicates=1, quarantined=2, head=2)
    assert await stored_events(conn) == [a, b]
    assert await quarantine_rows(conn) == [(a.event_id, other.payload, OTHER_BYTES, 2)]


@with_and_without_probing
async def test_one_batch_may_contain_an_event_in_both_contracts(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    appender.probing = probing
    same, differing = next_ulid(), next_ulid()
    batch = [chat_event(same), pcs_event(same), pcs_event(differing), chat_event(differing, "99900000009")]
    assert (await appender.append(batch))[:3] == (2, 1, 1)
    assert await stored_events(conn) == [batch[0], batch[2]]
    assert await quarantine_rows(conn) == [(differing, batch[3].payload, OTHER_VALUES, 1)]


@with_and_without_probing
async def test_one_batch_may_not_contain_one_id_for_two_apps(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    appender.probing = probing
    event_id = next_ulid()
    with pytest.raises(ForeignEventId):
        await appender.append([*new_events(1), chat_event(event_id), chat_event(event_id, app="other")])
    await store.assert_nothing_written(conn)


@with_and_without_probing
async def test_repeated_events_in_a_batch_are_compared_with_the_stored_one(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    first = new_events(1)[0]
    other = conflicting_event(first)
    await appender.append([first])
    appender.probing = probing
    # Appended one by one, they would be: a conflict, a duplicate, a conflict, a duplicate.
    assert await appender.append([other, first, other, first]) == Appended(
        stored=0, duplicates=2, quarantined=2, head=1
    )
    assert await stored_events(conn) == [first]
    assert await quarantine_rows(conn) == [(first.event_id, other.payload, OTHER_BYTES, 2)]


# Duplicates across batches


@with_and_without_probing
async def test_an_event_that_is_stored_already_is_a_duplicate(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    events = new_events(4)
    await appender.append(events[:3])
    appender.probing = probing
    assert await appender.append(events) == Appended(stored=1, duplicates=3, quarantined=0, head=4)
    appender.probing = probing
    assert await appender.append(events) == Appended(stored=0, duplicates=4, quarantined=0, head=4)
    assert await stored_events(conn) == events
    assert await quarantine_rows(conn) == []


@with_and_without_probing
async def test_different_bytes_under_a_stored_id_are_quarantined_and_the_first_stays(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    first, *new = new_events(3)
    other = conflicting_event(first)
    await appender.append([first])
    appender.probing = probing
    assert await appender.append([new[0], other, new[1]]) == Appended(stored=2, duplicates=0, quarantined=1, head=3)
    assert await stored_events(conn) == [first, *new]
    assert await quarantine_rows(conn) == [(first.event_id, other.payload, OTHER_BYTES, 1)]


@with_and_without_probing
async def test_different_bytes_with_equal_values_are_quarantined(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    payload = wire.event(next_ulid())
    first = decode(payload, APP, CHAT)
    longer = decode(payload + wire.number_field(5000, 1), APP, CHAT)
    assert first == longer._replace(payload=payload)
    await appender.append([first])
    appender.probing = probing
    assert (await appender.append([longer]))[:3] == (0, 0, 1)
    assert await stored_events(conn) == [first]


@with_and_without_probing
@pytest.mark.parametrize("pcs_first", [True, False])
async def test_the_other_contracts_bytes_with_equal_values_are_a_duplicate(
    appender: Appender, conn: AsyncConnection, probing: bool, pcs_first: bool
) -> None:
    event_id = next_ulid()
    pair = [pcs_event(event_id), chat_event(event_id)]
    first, second = pair if pcs_first else reversed(pair)
    await appender.append([first])
    appender.probing = probing
    assert (await appender.append([second, *new_events(1)]))[:3] == (1, 1, 0)
    assert (await stored_events(conn))[0] == first
    assert await quarantine_rows(conn) == []


@with_and_without_probing
async def test_the_other_contracts_bytes_with_different_values_are_quarantined(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    event_id = next_ulid()
    await appender.append([chat_event(event_id)])
    appender.probing = probing
    other = pcs_event(event_id, "99900000009")
    assert (await appender.append([other]))[:3] == (0, 0, 1)
    assert await stored_events(conn) == [chat_event(event_id)]
    assert await quarantine_rows(conn) == [(event_id, other.payload, OTHER_VALUES, 1)]


@with_and_without_probing
async def test_the_same_bytes_under_the_other_contract_are_a_duplicate(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    payload = wire.event(next_ulid())
    await appender.append([decode(payload, APP, CHAT)])
    appender.probing = probing
    assert (await appender.append([decode(payload, APP, PCS)]))[:3] == (0, 1, 0)
    assert await quarantine_rows(conn) == []


@with_and_without_probing
async def test_an_id_that_is_stored_under_another_app_is_refused_and_nothing_is_written(
    appender: Appender, conn: AsyncConnection, probing: bool
) -> None:
    theirs = new_events(1, app="theirs")[0]
    await appender.append([theirs])
    await store.set_epoch(conn)
    appender.probing = probing
    batch = [*new_events(2), theirs._replace(app=APP), *new_events(2)]
    with pytest.raises(ForeignEventId) as caught:
        await appender.append(batch, rejected=[garbage()], cursor=CursorMove(APP, 1, batch[-1].event_id))
    assert (caught.value.app, caught.value.other, caught.value.event_id) == (APP, "theirs", theirs.event_id)
    assert await stored_events(conn) == [theirs]
    assert await quarantine_rows(conn) == []
    assert await cursor_of(conn) is None
    assert (await appender.append(new_events(1))).stored == 1


async def test_a_batch_whose_commit_is_unknown_is_appended_again(
    appender: Appender, conn: AsyncConnection, database_url: str
) -> None:
    batch = new_events(5)
    await appender.append(batch, rejected=[garbage()])
    async with store.appender(database_url) as after:
        assert (await after.append(batch, rejected=[garbage()]))[:3] == (0, 5, 1)
    assert await stored_events(conn) == batch


# Probing


class Steps:
    """Records the probes and copies of an appender, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        probe, copy = duplicates.find_stored_ids, copying.copy_events

        async def probed(conn: AsyncConnection, events: Sequence[Event], *, is_distributed: bool) -> object:
            self.taken.append(f"probe {len(events)}")
            return await probe(conn, events, is_distributed=is_distributed)

        async def copied(conn: AsyncConnection, events: Sequence[Event], head: Head) -> None:
            self.taken.append(f"copy {len(events)}")
            await copy(conn, events, head)

        monkeypatch.setattr("eventstore.appending.append.find_stored_ids", probed)
        for module in ("append", "copying"):
            monkeypatch.setattr(f"eventstore.appending.{module}.copy_events", copied)

    def since(self) -> list[str]:
        taken, self.taken = self.taken, []
        return taken


async def test_batches_are_probed_until_one_is_clean_and_again_after_a_copy_that_hits_a_duplicate(
    appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    known = new_events(4)
    await appender.append(known)
    assert steps.since() == ["probe 4", "copy 4"]
    await appender.append(new_events(2))
    assert steps.since() == ["copy 2"]
    await appender.append([*known, *new_events(1)])
    assert steps.since() == ["copy 5", "probe 5", "copy 1"]
    await appender.append(known)
    assert steps.since() == ["probe 4"]
    await appender.append([*new_events(2), known[0]])
    assert steps.since() == ["probe 3", "copy 2"]
    repeated = new_events(2)
    await appender.append([*repeated, *repeated])
    assert steps.since() == ["probe 4", "copy 2"]
    await appender.append([*new_events(1), *(repeated := new_events(1)), *repeated])
    assert steps.since() == ["copy 2"]
    await appender.append([], rejected=[garbage()])
    assert steps.since() == []
    await appender.append(new_events(1), rejected=[garbage()])
    assert steps.since() == ["copy 1"]


async def test_a_batch_that_differs_from_what_is_stored_is_not_clean(
    appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    known = new_events(2)
    await appender.append(known)
    await appender.append([conflicting_event(event) for event in known])
    assert steps.since() == ["probe 2", "copy 2", "copy 2", "probe 2"]
    await appender.append(known)
    assert steps.since() == ["probe 2"]


async def test_a_new_connection_expects_duplicates(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    for _ in range(2):
        async with store.appender(database_url) as appender:
            await appender.append(new_events(1))
            await appender.append(new_events(2))
        assert steps.since() == ["probe 1", "copy 1", "copy 2"]
