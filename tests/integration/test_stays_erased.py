"""Who was erased stays erased: events that are received again, late, from a file or from quarantine name nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from eventstore import schema, ulid
from eventstore.appending.append import Appended, Appender
from eventstore.appending.quarantine import quarantine
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.contracts import Event
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.number_finder import possible_numbers
from eventstore.errors import LockHeld, OtherLog
from eventstore.ingest.context import IngestContext
from eventstore.locks import ERASE_LOCK
from eventstore.postgres.session_lock import hold_lock
from eventstore.quarantined.messages import Selection
from eventstore.quarantined.retry import retry_messages
from eventstore.transfer.export import export_erasures, export_events
from eventstore.transfer.importing import import_events
from projections.erasing.erase_request import AsOfInTheWay
from projections.inspecting.erasure_ledger import describe_ledger
from projections.rebuilding.as_of import build_as_of
from tests import folding, oracle, rebuilding, store
from tests.databases import Server
from tests.erasing import BUILT_IN, KEY, OTHER_KEY, again, erase
from tests.folding import append, decode_record, new_record
from tests.oracle import Record
from tests.queries import fetch_all

NUMBER, OTHER = "12300000001", "12300000002"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "observer") as conn:
        yield conn


async def receive(url: str, *records: Record, key: ErasureKey | None = None, probing: bool = True) -> Appended:
    async with store.connection(url) as own:
        appender = Appender(own, folding.QUICK, DEFAULT_LIMITS, key)
        appender.probing = probing
        return await appender.append([decode_record(record) for record in records])


async def numbers(conn: AsyncConnection) -> list[str]:
    return [row[0] for row in await fetch_all(conn, "SELECT ppnum FROM eventstore.events ORDER BY position")]


async def assert_nowhere(conn: AsyncConnection, number: str = NUMBER) -> None:
    """Assert that neither an event nor a quarantined message has the number."""
    for table in (schema.events, schema.quarantine):
        rows = await fetch_all(conn, f"TABLE {table.fullname}")
        assert not [row for row in rows for value in row if isinstance(value, bytes) and number.encode() in value]
    assert number not in await numbers(conn)


def late(record: Record) -> Record:
    """An event that happened with this one, under another id."""
    return replace(record, event_id=store.next_ulid())


@store.with_and_without_probing
@pytest.mark.parametrize("contract", ["chat.external", "pcs.external.v1"])
async def test_an_erased_event_that_is_received_again_is_a_duplicate(
    database_url: str, conn: AsyncConnection, contract: str, probing: bool
) -> None:
    record, new = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.DELIVERED, OTHER)
    await append(conn, record)
    await erase(database_url, NUMBER)
    again = replace(record, contract=contract)
    done = await receive(database_url, again, new, again, probing=probing)
    assert (done.stored, done.duplicates, done.quarantined) == (1, 2, 0)
    await assert_nowhere(conn)


@store.with_and_without_probing
async def test_with_the_key_a_late_event_is_stored_erased(
    database_url: str, conn: AsyncConnection, probing: bool
) -> None:
    record = new_record(oracle.DELIVERED, NUMBER)
    await append(conn, record)
    token = (await erase(database_url, NUMBER, key=KEY)).persons[0].token
    done = await receive(database_url, late(record), late(record), key=KEY, probing=probing)
    assert (done.stored, done.quarantined) == (2, 0)
    assert await numbers(conn) == [token] * 3
    await assert_nowhere(conn)
    # It is known by its id from now on, also to those without the key.
    stored = (await folding.stored_records(conn))[-1]
    assert (await receive(database_url, replace(stored, ppnum=NUMBER))).duplicates == 1
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


async def test_an_event_after_the_erasure_is_of_a_new_person_until_the_next_erasure(
    database_url: str, conn: AsyncConnection
) -> None:
    record = new_record(oracle.DELIVERED, NUMBER)
    await append(conn, record)
    first = (await erase(database_url, NUMBER, key=KEY)).persons[0].token
    erased_at = (await fetch_all(conn, "SELECT erased_at FROM eventstore.erasures"))[0][0]
    after = replace(late(record), occurred_at=erased_at + timedelta(microseconds=1))
    at_once = replace(late(record), occurred_at=erased_at)
    await receive(database_url, after, at_once, key=KEY)
    assert await numbers(conn) == [first, NUMBER, first]
    second = (await erase(database_url, NUMBER, key=KEY)).persons[0].token
    assert await numbers(conn) == [first, second, first]
    await receive(database_url, late(record), late(after), key=KEY)
    assert await numbers(conn) == [first, second, first, first, second]
    await assert_nowhere(conn)


async def test_an_erasure_of_one_app_leaves_the_others_alone(database_url: str, conn: AsyncConnection) -> None:
    here, there = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.DELIVERED, NUMBER, app="other")
    await append(conn, here, there)
    token = (await erase(database_url, NUMBER, app=store.APP, key=KEY)).persons[0].token
    await receive(database_url, late(here), key=KEY)
    await receive(database_url, late(there), key=KEY)
    assert await numbers(conn) == [token, NUMBER, token, NUMBER]


@pytest.mark.parametrize("key", [None, OTHER_KEY], ids=["no key", "another key"])
async def test_without_the_key_a_late_event_keeps_its_number_and_the_log_says_so(
    database_url: str, conn: AsyncConnection, key: ErasureKey | None, capsys: pytest.CaptureFixture[str]
) -> None:
    record = new_record(oracle.DELIVERED, NUMBER)
    await append(conn, record)
    await erase(database_url, NUMBER, key=KEY)
    await receive(database_url, late(record), key=key)
    assert (await numbers(conn))[1] == NUMBER
    assert "late events of erased persons would be stored with their numbers" in capsys.readouterr().out


async def test_no_conflicting_event_is_quarantined_with_the_number_of_an_erased_person(
    database_url: str, conn: AsyncConnection
) -> None:
    record, of_other = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.DELIVERED, OTHER)
    await append(conn, record, of_other)
    await erase(database_url, NUMBER, key=KEY)
    done = await receive(database_url, replace(of_other, ppnum=NUMBER), key=KEY)
    assert (done.stored, done.quarantined) == (0, 1)
    assert (await numbers(conn))[1] == OTHER
    await assert_nowhere(conn)
    ids = await fetch_all(conn, "SELECT event_id FROM eventstore.erased_events")
    assert ids == [(record.event_id,)]


async def test_an_import_of_an_older_file_brings_nobody_back(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path
) -> None:
    record, of_other = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.DELIVERED, OTHER)
    await append(conn, record, of_other)
    async with conn.transaction():
        message = store.garbage()._replace(payload=b"\xff" + NUMBER.encode())
        await quarantine(conn, [message])
    file = tmp_path / "a.events"
    await export_events(conn, file, lambda *_: None)
    await erase(database_url, NUMBER)
    await assert_nowhere(conn)
    for _ in range(2):
        await import_events(IngestContext(database_url, store.QUICK), file, on_progress=lambda *_: None)
        await assert_nowhere(conn)
    newer = tmp_path / "b.events"
    await export_events(conn, newer, lambda *_: None)
    with postgres.database() as restored:
        await import_events(IngestContext(restored, store.QUICK), file, on_progress=lambda *_: None)
        with pytest.raises(OtherLog, match="run projections erase --again"):
            await import_events(IngestContext(restored, store.QUICK), newer, on_progress=lambda *_: None)


async def test_a_retry_of_quarantined_messages_brings_nobody_back(database_url: str, conn: AsyncConnection) -> None:
    """A message that couldn't be decoded names a person who is erased before it can be."""
    record = new_record(oracle.DELIVERED, NUMBER)
    await append(conn, new_record(oracle.DELIVERED, NUMBER))
    event: Event = decode_record(record)
    message = store.garbage()._replace(payload=event.payload, event_id=event.event_id)
    async with conn.transaction():
        await quarantine(conn, [message])
    await erase(database_url, NUMBER)
    assert await store.value(conn, "SELECT payload FROM eventstore.quarantine") == b""
    assert await store.value(conn, "SELECT erased_at IS NOT NULL FROM eventstore.quarantine")
    done = await retry_messages(conn, Selection(), DEFAULT_LIMITS, folding.QUICK)
    assert (done.stored, len(done.still)) == (0, 1)
    # One that is quarantined later is stored erased, with the key.
    await erase(database_url, OTHER, key=KEY)
    event = decode_record(new_record(oracle.DELIVERED, OTHER))
    async with conn.transaction():
        await quarantine(conn, [store.garbage()._replace(payload=event.payload, event_id=event.event_id)])
    done = await retry_messages(conn, Selection(), DEFAULT_LIMITS, folding.QUICK, key=KEY)
    assert done.stored == 1
    await assert_nowhere(conn, OTHER)


async def test_a_quarantined_message_that_is_received_again_is_counted_on_its_erased_row(
    database_url: str, conn: AsyncConnection
) -> None:
    message = store.garbage()._replace(payload=b"\xff" + NUMBER.encode(), event_id=store.next_ulid())
    for _ in range(2):
        async with conn.transaction():
            await quarantine(conn, [message, message])
        await erase(database_url, NUMBER)
    async with conn.transaction():
        await quarantine(conn, [message])
    await assert_nowhere(conn)
    assert await fetch_all(conn, "SELECT count, payload FROM eventstore.quarantine") == [(5, b"")]


async def test_with_the_key_a_late_message_that_cant_be_decoded_is_quarantined_without_its_bytes(
    database_url: str, conn: AsyncConnection
) -> None:
    await append(conn, new_record(oracle.DELIVERED, NUMBER))
    await erase(database_url, NUMBER, app=store.APP, key=KEY)
    erased_at = (await fetch_all(conn, "SELECT erased_at FROM eventstore.erasures"))[0][0]
    message = store.garbage()._replace(payload=b"\xff 00" + NUMBER.encode() + b"2")
    assert "+41790000017" in possible_numbers(b"\xff+4179000001799")
    messages = {
        "no id": message,
        "before": message._replace(payload=message.payload + b" 1", event_id=ulid.first_ulid_at(erased_at)),
        "after": message._replace(event_id=ulid.first_ulid_at(erased_at + timedelta(seconds=1))),
        "other app": message._replace(app="other"),
        "other number": message._replace(payload=b"\xff" + OTHER.encode()),
    }
    async with store.connection(database_url) as own:
        appender = Appender(own, folding.QUICK, DEFAULT_LIMITS, KEY)
        for name in ("no id", "no id", "before", "other app", "other number"):
            await appender.append([], rejected=[messages[name]])
        kept = "SELECT app, payload, count, erased_at IS NOT NULL FROM eventstore.quarantine ORDER BY id"
        assert await fetch_all(conn, kept) == [
            (store.APP, b"", 2, True),
            (store.APP, b"", 1, True),
            ("other", message.payload, 1, False),
            (store.APP, messages["other number"].payload, 1, False),
        ]
        await appender.append([], rejected=[messages["after"]])
        assert (await fetch_all(conn, kept))[-1][1:] == (message.payload, 1, False)
        # Whoever is erased again loses these bytes too; received again, they are counted on one of the rows.
        await erase(database_url, NUMBER, key=KEY)
        await appender.append([], rejected=[messages["after"]])
        assert await fetch_all(conn, "SELECT count(*), sum(count)::int FROM eventstore.quarantine") == [(5, 7)]
    await assert_nowhere(conn)


@pytest.mark.oldest
async def test_an_again_that_did_not_end_is_reported(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path
) -> None:
    await append(conn, new_record(oracle.DELIVERED, NUMBER))
    backup, ledger = tmp_path / "backup", tmp_path / "ledger"
    await export_events(conn, backup, lambda *_: None)
    await erase(database_url, NUMBER)
    await export_erasures(conn, ledger)
    with postgres.database() as restored:
        await import_events(IngestContext(restored, store.QUICK), backup, on_progress=lambda *_: None)
        await folding.fold_all(restored)
        async with store.connection(restored) as other:
            event_id = await store.value(other, "SELECT event_id FROM eventstore.events")
            context = rebuilding.replay_context(restored)
            await build_as_of(context, [BUILT_IN["people"]], str(event_id), "earlier", force=False)
            with pytest.raises(AsOfInTheWay):
                await again(restored, ledger)
            found = str(await describe_ledger(other, ledger))
            assert found.endswith("; run projections erase --again with that ledger to its end")
            async with hold_lock(restored, ERASE_LOCK, name="projections erase here:1", what="it", waits=store.QUICK):
                found = str(await describe_ledger(other, ledger))
            assert found.endswith("; wait for projections erase here:1, and look again")
            await other.execute("DROP SCHEMA earlier CASCADE")
            await again(restored, ledger)
            assert await describe_ledger(other, ledger) is None


@pytest.mark.oldest
async def test_an_export_carries_erasures_and_an_import_restores_them(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path
) -> None:
    record, of_other = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.DELIVERED, OTHER)
    await append(conn, record, of_other)
    async with conn.transaction():
        await quarantine(
            conn, [store.garbage(number)._replace(payload=b"\xff%d" % number + NUMBER.encode()) for number in (1, 2)]
        )
    await erase(database_url, NUMBER, key=KEY)
    file = tmp_path / "log"
    assert (await export_events(conn, file, lambda *_: None)).erasures == 1
    assert NUMBER.encode() not in file.read_bytes()
    with postgres.database() as elsewhere:
        for _ in range(2):  # it can be run again
            await import_events(IngestContext(elsewhere, store.QUICK), file, on_progress=lambda *_: None)
        async with store.connection(elsewhere) as other:
            for query in (
                "SELECT token, app, erased_at, why, erased_by, position, mac, key_check, rows FROM eventstore.erasures",
                "SELECT bool_or(awaited) FROM eventstore.erasures",
                "SELECT * FROM eventstore.erased_events",
                "SELECT event_id, position, ppnum, payload FROM eventstore.events ORDER BY position",
                "SELECT app, reason, payload, first_seen, erased_at FROM eventstore.quarantine ORDER BY id",
            ):
                assert await fetch_all(other, query) == await fetch_all(conn, query), query
            done = await receive(elsewhere, record, late(record), key=KEY)
            assert (done.stored, done.duplicates) == (1, 1)
            await assert_nowhere(other)


async def test_a_restored_log_is_erased_again_and_what_is_received_again_is_stored_erased(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path
) -> None:
    """The backup lacks an event of the person, and the person has a newer one besides those of the ledger."""
    first, second = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.GRANTED, NUMBER)
    await append(conn, first, new_record(oracle.DELIVERED, OTHER))
    backup, ledger = tmp_path / "backup", tmp_path / "ledger"
    await export_events(conn, backup, lambda *_: None)
    await append(conn, second)
    token = (await erase(database_url, NUMBER)).persons[0].token
    await export_erasures(conn, ledger)
    with postgres.database() as restored:
        await import_events(IngestContext(restored, store.QUICK), backup, on_progress=lambda *_: None)
        await folding.fold_all(restored)
        async with store.connection(restored) as other:
            done = await again(restored, ledger)
            assert done.need_rebuild == set()
            assert await numbers(other) == [token, OTHER]
            assert await store.value(other, "SELECT awaited FROM eventstore.erasures")
            await folding.assert_rows_match_oracle(other)
            received = await receive(restored, first, second, probing=False)
            assert (received.stored, received.duplicates, received.quarantined) == (1, 1, 0)
            assert await numbers(other) == [token, OTHER, token]
            await assert_nowhere(other)
            await again(restored, ledger)
            assert not await store.value(other, "SELECT awaited FROM eventstore.erasures")
            await folding.fold_all(restored)
            await folding.assert_rows_match_oracle(other)


async def test_persons_with_newer_events_are_erased_again_and_their_projections_need_a_rebuild(
    database_url: str, conn: AsyncConnection, postgres: Server, tmp_path: Path
) -> None:
    first, newer = new_record(oracle.DELIVERED, NUMBER), new_record(oracle.DELIVERED, NUMBER)
    await append(conn, first)
    backup, ledger = tmp_path / "backup", tmp_path / "ledger"
    await export_events(conn, backup, lambda *_: None)
    token = (await erase(database_url, NUMBER)).persons[0].token
    await export_erasures(conn, ledger)
    with postgres.database() as restored:
        await import_events(IngestContext(restored, store.QUICK), backup, on_progress=lambda *_: None)
        await receive(restored, newer)
        await folding.fold_all(restored)
        done = await again(restored, ledger)
        assert done.need_rebuild == {"request_status", "consent_registry", "people"}
        async with store.connection(restored) as other:
            assert await numbers(other) == [token, NUMBER]
            for name in sorted(done.need_rebuild):
                await rebuilding.rebuild(restored, BUILT_IN[name], limits=rebuilding.ANY_REMOVAL)
            await folding.assert_rows_match_oracle(other)


async def test_no_import_runs_beside_an_erase(database_url: str, conn: AsyncConnection, tmp_path: Path) -> None:
    """It could put events of the person where the erase doesn't look again."""
    await append(conn, new_record(oracle.DELIVERED, NUMBER))
    await export_events(conn, tmp_path / "log", lambda *_: None)
    context = IngestContext(database_url, store.QUICK)
    async with hold_lock(database_url, ERASE_LOCK, name="erase", what="events", waits=store.QUICK):
        with pytest.raises(LockHeld, match="the stored events"):
            await import_events(context, tmp_path / "log", on_progress=lambda *_: None)
