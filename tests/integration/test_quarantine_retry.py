"""A retry stores quarantined messages that decode now, once each, beside followers; drop makes room again."""

from __future__ import annotations

import asyncio

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from eventstore.appending.append import Appender
from eventstore.appending.duplicates import OTHER_BYTES
from eventstore.appending.notify_channel import CHANNEL
from eventstore.appending.quarantine import Rejected
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS, QuarantineLimits
from eventstore.contracts import Contract, Event
from eventstore.contracts.framing import NOT_A_FRAME
from eventstore.errors import LockHeld
from eventstore.ingest.apps import next_resume_point, read_apps
from eventstore.locks import IMPORT_LOCK
from eventstore.postgres.session_lock import hold_lock
from eventstore.quarantined.drop import drop_messages
from eventstore.quarantined.messages import Selection, count_by_reason, select_messages
from eventstore.quarantined.retry import NO_EVENT_IN_FRAME, RetryResult, retry_messages
from tests import folding, store, wire
from tests.fix_simulator import SimulatorFactory
from tests.following import follower, following, log_of, payloads, stored_payloads
from tests.queries import fetch_all, fetch_row
from tests.store import APP, CHAT, PCS, QUICK, appender, chat_event, conflicting_event, garbage, new_events, pcs_event

REFUSED = "an older decoder refused it"
ALL = Selection()


def refused(event: Event, reason: str = REFUSED) -> Rejected:
    """Return an event as a decoder quarantined it that couldn't read it."""
    return Rejected(event.app, event.contract, event.payload, reason, event.event_id)


async def retry(conn: AsyncConnection, selection: Selection = ALL, *, dry_run: bool = False) -> RetryResult:
    return await retry_messages(conn, selection, DEFAULT_LIMITS, QUICK, dry_run=dry_run)


async def counts(conn: AsyncConnection) -> list[tuple[object, ...]]:
    return await fetch_all(
        conn, "SELECT app, reason, messages, not_kept FROM eventstore.quarantine_counts ORDER BY 1, 2"
    )


async def quarantined_payloads(conn: AsyncConnection) -> list[bytes]:
    return [row.payload for row in await store.quarantine_rows(conn)]


async def test_a_retry_stores_what_decodes_now_and_says_why_the_rest_stays(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    stored, elsewhere = new_events(2), new_events(1, app="other")
    await appender.append([*stored, *elsewhere], rejected=[])
    two_forms = store.next_ulid()
    new = [*new_events(3), chat_event(two_forms)]
    again = pcs_event(two_forms)  # the same event under the other contract
    framed, foreign = pcs_event(store.next_ulid()), chat_event(elsewhere[0].event_id)
    conflicting = conflicting_event(stored[0])
    in_frame = Rejected(APP, PCS.value, wire.frame(framed.payload), NOT_A_FRAME)
    empty_frame = Rejected(APP, PCS.value, wire.keep_alive(), NOT_A_FRAME)
    rest = [garbage(), refused(conflicting), refused(foreign), empty_frame]
    rejected = [refused(stored[1]), *map(refused, new), refused(again), in_frame, *rest]
    await appender.append([], rejected=rejected)
    await appender.append([], rejected=[refused(new[0])])  # received twice, stored once
    before = await counts(conn)

    await conn.execute(f"LISTEN {CHANNEL}".encode())
    expected = RetryResult(selected=11, stored=5, duplicates=2)
    dry = await retry(conn, dry_run=True)
    assert (dry.selected, dry.stored, dry.duplicates) == (11, 5, 2)
    assert len(await store.positions(conn)) == 3
    assert len(await quarantined_payloads(conn)) == 11
    found = await retry(conn)
    assert found.still == dry.still
    assert (found.selected, found.stored, found.duplicates) == (expected.selected, expected.stored, expected.duplicates)
    assert {each.reason: each.is_forever for each in found.still} == {
        garbage().reason: False,
        OTHER_BYTES: True,
        "its event_id is already stored under app 'other'": True,
        NO_EVENT_IN_FRAME: False,
    }
    assert (found.gone, found.missing) == (0, [])
    assert [notice async for notice in conn.notifies(timeout=0.5, stop_after=1)]

    events = await store.stored_events(conn)
    assert events == [*stored, *elsewhere, *new, framed]
    assert len(await store.positions(conn)) == 8
    assert sorted(await quarantined_payloads(conn)) == sorted(each.payload for each in rest)
    times = await fetch_all(conn, "SELECT received_at FROM eventstore.events ORDER BY position")
    assert times == sorted(times)
    marks = await fetch_all(conn, "SELECT event_id, reason, first_seen <= retried_at FROM eventstore.retried_events")
    assert sorted(marks) == sorted(
        [*((event.event_id, REFUSED, True) for event in new), (framed.event_id, NOT_A_FRAME, True)]
    )
    assert await counts(conn) == before, "how many were ever quarantined stays"
    usage = await fetch_row(conn, "SELECT kept_rows, kept_bytes FROM eventstore.quarantine_usage WHERE app = %s", [APP])
    assert usage == (4, sum(len(each.payload) for each in rest))

    assert (await retry(conn)).stored == 0
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


async def test_two_retries_at_once_store_each_message_once(database_url: str, conn: AsyncConnection) -> None:
    events = new_events(40)
    async with appender(database_url) as one, appender(database_url) as two:
        await one.append([], rejected=[refused(event) for event in events])
        async with store.connection(database_url, "first") as first, store.connection(database_url, "second") as second:
            both = await asyncio.gather(retry(first), retry(second))
        assert sum(each.stored for each in both) == 40
        assert [each.stored + each.gone for each in both] == [each.selected for each in both]
        assert await two.append(events) == (0, 40, 0, 40, 0)
    assert await store.stored_events(conn) == events
    assert await quarantined_payloads(conn) == []


async def test_a_retry_beside_a_follower_disturbs_it_not(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    log = log_of(30)
    simulator = await simulator_factory(log[:10])
    late = new_events(20)
    async with following(follower(database_url, simulator.address)) as running, appender(database_url) as quarantining:

        async def stored(count: int) -> None:
            async def enough() -> bool:
                return len(await stored_payloads(conn)) >= count

            await store.wait_until(enough, f"{count} events")

        await stored(10)
        for number in range(20):
            await quarantining.append([], rejected=[refused(late[number])])
            await simulator.append(log[10 + number])
            assert (await retry(conn)).stored == 1
        await stored(50)
        outcome = await running.stop()
    assert (outcome.stored, outcome.refused, outcome.uncommitted) == (30, {}, ())
    assert len(simulator.calls) == 1, "the follower had no reason to connect again"
    found = await stored_payloads(conn)
    assert [payload for payload in found if payload in set(payloads(log, CHAT))] == payloads(log, CHAT)
    assert {*found} == {*payloads(log, CHAT), *(event.payload for event in late)}
    assert await store.cursor_of(conn) == log[-1].event_id


@pytest.mark.parametrize("after", ["a gap", "a reset", "first contact"])
async def test_retried_events_do_not_decide_where_a_stream_resumes(
    conn: AsyncConnection, appender: Appender, after: str
) -> None:
    """Otherwise a stream would resume before a gap or a reset, and lose what the upstream could still replay."""
    await store.set_epoch(conn)
    old = new_events(1)
    if after != "first contact":
        await appender.append(old)
    if after == "a gap":
        gap = {"lower": old[0].event_id, "upper": store.next_ulid(), "noticed_at": "2026-01-02T03:04:05+00:00"}
        await conn.execute("UPDATE eventstore.cursors SET holes = %s", [Jsonb([{**gap, "detail": "", "position": 1}])])
    elif after == "a reset":
        await conn.execute(
            "UPDATE eventstore.cursors SET reset_position = 1, reset_to = %s", [wire.ulid_of(1_700_000_000_000)]
        )
    await appender.append([], rejected=[refused(event) for event in new_events(5)])

    async def resume_point() -> tuple[str | None, str]:
        app = (await read_apps(conn))[APP]
        _, point = await next_resume_point(conn, app, contract=CHAT, since=None, waits=QUICK)
        return point.event_id, point.why

    before = await resume_point()
    assert (await retry(conn)).stored == 5
    assert await resume_point() == before


async def test_a_retry_is_refused_while_an_import_adds_events_after_the_head(
    database_url: str, conn: AsyncConnection, appender: Appender
) -> None:
    await appender.append([], rejected=[refused(event) for event in new_events(1)])
    async with hold_lock(database_url, IMPORT_LOCK, name="the import", what="the head", waits=QUICK):
        with pytest.raises(LockHeld, match="after which an import adds events: held by the import"):
            await retry(conn)
    assert (await retry(conn)).stored == 1


@pytest.mark.oldest
async def test_a_full_quarantine_keeps_messages_again_after_a_drop_or_a_retry(
    database_url: str, conn: AsyncConnection
) -> None:
    limits = QuarantineLimits(max_rows=20, max_bytes=10**6)
    events = new_events(3)

    async def usage() -> tuple[object, ...] | None:
        query = "SELECT kept_rows, full_since IS NOT NULL FROM eventstore.quarantine_usage WHERE app = %s"
        return await fetch_row(conn, query, [APP])

    async with store.connection(database_url, "appending") as session:
        quarantining = Appender(session, QUICK, limits)
        await quarantining.append([], rejected=[*map(refused, events), *(garbage(number) for number in range(17))])
        assert await usage() == (18, True)
        assert (await quarantining.append([], rejected=[garbage(50)])).not_kept == 1
        result = await retry_messages(conn, Selection(reason=REFUSED), limits, QUICK)
        assert (result.stored, await usage()) == (3, (15, False))
        assert (await quarantining.append([], rejected=[garbage(51)])).not_kept == 0

        selection = Selection(reason="not a SendRequest", app=APP)
        chosen = await select_messages(conn, selection)
        # One of them is received again before it is dropped, and one is new: neither was agreed to with this time.
        await conn.execute("UPDATE eventstore.quarantine SET first_seen = '2026-01-01Z', last_seen = '2026-01-01Z'")
        await quarantining.append([], rejected=[garbage(0), garbage(52)])
        cutoff = await store.value(conn, "SELECT '2026-01-02Z'::timestamptz")
        dropped = await drop_messages(conn, Selection(before=cutoff, app=APP), chosen, limits)  # type: ignore[arg-type]
        assert dropped.messages == sum(each.count for each in chosen) - 1
        assert sorted(await quarantined_payloads(conn)) == [garbage(0).payload, garbage(52).payload]
        assert await usage() == (2, False)
    (numbers,) = await count_by_reason(conn, APP, "not a SendRequest")
    assert (numbers.received, numbers.kept) == (21, 2)


async def test_only_the_chosen_messages_are_retried(conn: AsyncConnection, appender: Appender) -> None:
    ours, theirs = new_events(2), new_events(2, app="other")
    await appender.append([], rejected=[*map(refused, ours), *(refused(event, "strange") for event in theirs)])
    rows: dict[bytes, int] = dict(await fetch_all(conn, "SELECT payload, id FROM eventstore.quarantine"))
    missing = max(rows.values()) + 1
    found = await retry(conn, Selection(ids=(rows[ours[0].payload], missing)))
    assert (found.selected, found.stored, found.missing) == (1, 1, [missing])
    assert (await retry(conn, Selection(app="other", reason="strange"))).stored == 2
    assert await store.stored_events(conn) == [ours[0], *theirs]
    assert await quarantined_payloads(conn) == [ours[1].payload]


def test_contracts_have_their_own_status_method() -> None:
    assert Contract.PCS_EXTERNAL_V1.status_method == "/pcs.external.v1.MessageService/GetSendRequestStatus"
    assert Contract.CHAT_EXTERNAL.status_method == "/chat.external.ExternalMessageService/GetSendRequestStatus"
