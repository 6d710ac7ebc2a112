"""A file with a correct digest is not trusted: invalid contents are refused before anything of it is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.appending.restore import restore_events
from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.errors import ArchiveError, OtherLog
from eventstore.event_reader import StoredEvent
from eventstore.ingest.grpc_channel import MAX_MESSAGE_BYTES
from eventstore.transfer import archive_checks, importing
from eventstore.transfer.archive import ArchiveWriter, microseconds, read_archive
from tests import store
from tests.folding import append, new_record
from tests.transferring import (
    GAP,
    assert_empty,
    delete_positions,
    export,
    fill_store,
    import_file,
    open_connection,
    read_content,
    store_content,
    write_content,
)

Change = Callable[[archive.Record], object]
FAR = microseconds(datetime(9999, 1, 1, tzinfo=UTC))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


def write_records(file: Path, records: list[archive.Record]) -> None:
    """Write records unchanged, with a correct digest."""
    with ArchiveWriter(file) as out:
        for record in records:
            out.write(record)


def changed(file: Path, kind: str, change: Change, *, number: int = 2) -> None:
    """Return a function that changes the header, or one record of a kind, by number."""
    records = [record for record in read_archive(file) if not record.HasField("end")]
    chosen = [record for record in records if record.HasField(kind)]
    change(chosen[min(number, len(chosen)) - 1])
    write_records(file, records)


def set_field(part: str, **values: Any) -> Change:  # noqa: ANN401 - any field
    def change(record: archive.Record) -> None:
        for name, value in values.items():
            setattr(getattr(record, part), name, value)

    return change


def set_gaps(*found: object) -> Change:
    return lambda record: setattr(record.header.cursors[1], "holes", json.dumps(list(found)))


def set_cursor(**values: Any) -> Change:  # noqa: ANN401 - any field
    def change(record: archive.Record) -> None:
        for name, value in values.items():
            setattr(record.header.cursors[1], name, value)

    return change


def set_falling_times(record: archive.Record) -> None:
    record.event.received_at -= 3600 * 1_000_000


WRONG: list[tuple[str, str, Change, str]] = [
    ("position 0", "event", set_field("event", position=0), "the event at position 0: positions begin at 1"),
    ("position -3", "event", set_field("event", position=-3), "positions begin at 1"),
    ("a position twice", "event", set_field("event", position=1), "it follows position 1, but positions must rise"),
    ("beyond the head", "event", set_field("event", position=10), "it is beyond the head of the file, 9"),
    ("a falling time", "event", set_falling_times, "received_at is earlier than that of the event before it"),
    ("the year 9999", "event", set_field("event", received_at=FAR), "received_at is after 20.*, far in the future"),
    ("no time at all", "event", set_field("event", received_at=2**63 - 1), "far in the future"),
    ("before all times", "event", set_field("event", received_at=-(2**63)), "received_at is before 0?0?0?1-01-02"),
    ("an app's name", "event", set_field("event", app="my app"), "'my app' is not a valid name of an app"),
    ("no app", "event", set_field("event", app=""), "'' is not a valid name of an app"),
    ("a contract", "event", set_field("event", contract="chat.internal"), "unknown contract 'chat.internal'"),
    (
        "bytes",
        "event",
        set_field("event", payload=b"\xff"),
        "it can't be decoded: the bytes are not a SendRequestEvent",
    ),
    ("version 0", "header", set_field("header", version=0), "unknown format 0"),
    ("head -1", "header", set_field("header", head=-1), "the head is -1"),
    ("a cursor", "header", set_cursor(last_event_id="later"), "the cursor of app 'shop': last_event_id is not an"),
    ("a cursor's contract", "header", set_cursor(contract="x"), "unknown contract 'x'"),
    ("a cursor's app", "header", set_cursor(app="../etc"), "is not a valid name of an app"),
    ("a cursor twice", "header", set_cursor(app="new"), "the cursor of app 'new': the app has two cursors"),
    ("a cursor's time", "header", set_cursor(last_received_at=FAR), "last_received_at is after"),
    ("holes = 7", "header", set_cursor(holes="7"), "holes is not a list of objects"),
    ("no gaps", "header", set_cursor(holes=""), "holes is not JSON"),
    ("deep gaps", "header", set_cursor(holes="[" * 100_000), "holes is not JSON"),
    ("a gap of numbers", "header", set_gaps(7), "holes is not a list of objects"),
    ("a gap's keys", "header", set_gaps({"lower": None}), "gap 1: its keys must be detail, lower"),
    ("more keys", "header", set_gaps(GAP, GAP | {"more": 1}), "gap 2: its keys"),
    ("a gap's lower", "header", set_gaps(GAP | {"lower": "x"}), "lower is not an upper-case ULID"),
    ("a gap's upper", "header", set_gaps(GAP | {"upper": None}), "upper is not an upper-case ULID"),
    ("a gap's position", "header", set_gaps(GAP | {"position": -1}), "position is not valid"),
    ("a gap's true", "header", set_gaps(GAP | {"position": True}), "position is not valid"),
    ("a gap's fraction", "header", set_gaps(GAP | {"position": 1.5}), "position is not valid"),
    (
        "a gap's time",
        "header",
        set_gaps(GAP | {"noticed_at": "2026-01-02"}),
        "noticed_at is not a time with its time zone",
    ),
    (
        "a gap's detail",
        "header",
        set_gaps(GAP | {"detail": "a\0b"}),
        "detail has characters that Postgres can't store",
    ),
    (
        "a gap's surrogate",
        "header",
        set_gaps(GAP | {"detail": "\ud800"}),
        "detail has characters that Postgres can't store",
    ),
    ("a gap's length", "header", set_gaps(GAP | {"detail": "x" * 1001}), "detail is longer than 1,000 characters"),
    ("count 0", "quarantined", set_field("quarantined", count=0), "count is 0, but must be from 1 to 1000000000000"),
    (
        "count beyond the sum",
        "quarantined",
        set_field("quarantined", count=2**63 - 1),
        "count is 9223372036854775807, but must be from 1 to 1000000000000",
    ),
    ("times", "quarantined", lambda r: setattr(r.quarantined, "last_seen", r.quarantined.first_seen - 1), "earlier"),
    ("a reason", "quarantined", set_field("quarantined", reason=""), "reason is empty"),
    (
        "U+0000",
        "quarantined",
        set_field("quarantined", reason="a\0b"),
        "reason has characters that Postgres can't store",
    ),
    ("an event_id", "quarantined", set_field("quarantined", event_id="x"), "event_id is not an upper-case ULID"),
    ("an origin", "quarantined", set_field("quarantined", app="\0"), "is not a valid name of an app"),
    ("a kind", "quarantined", lambda record: record.Clear(), "it is of an unknown kind"),
]


async def test_contents_that_no_event_store_writes_are_refused_in_one_sentence(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    whole = read_content(file)
    async with open_connection(elsewhere) as there:
        for what, kind, change, message in WRONG:
            write_content(file, whole)
            changed(file, kind, change)
            with pytest.raises(ArchiveError) as caught:
                await import_file(elsewhere, file)
            sentence = str(caught.value)
            assert re.fullmatch(rf"record \d+ of .*events is invalid: .*{message}.*", sentence), f"{what}: {sentence}"
            await assert_empty(there)


async def test_a_payload_longer_than_any_message_is_refused(
    conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive_checks.MAX_PAYLOAD_BYTES == MAX_MESSAGE_BYTES
    await append(conn, new_record())
    await export(conn, file)
    monkeypatch.setattr(archive_checks, "MAX_PAYLOAD_BYTES", 10)
    with pytest.raises(ArchiveError, match="the event at position 1: its payload is longer than 10 bytes"):
        await import_file(elsewhere, file)


async def test_an_event_at_two_positions_is_refused_before_any_is_stored(
    conn: AsyncConnection, elsewhere: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [new_record() for _ in range(6)]
    await append(conn, *records)
    await export(conn, file)

    def again(record: archive.Record) -> None:
        first = next(one.event for one in read_archive(file) if one.HasField("event"))
        record.event.payload = first.payload

    changed(file, "event", again, number=6)
    monkeypatch.setattr(importing, "BATCH", 2)
    with pytest.raises(ArchiveError, match=f"event {records[0].event_id} is in .* at two positions"):
        await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        await assert_empty(there)


@pytest.mark.parametrize("hours", [-1, 9])
async def test_a_time_that_is_not_between_its_neighbours_is_refused(
    database_url: str, conn: AsyncConnection, file: Path, hours: int
) -> None:
    now = datetime.now(UTC) - timedelta(days=1)
    events = enumerate(store.new_events(5), 1)
    stored = [StoredEvent(at, now + timedelta(hours=at), event) for at, event in events]
    await restore_events(conn, stored, store.QUICK)
    await export(conn, file)
    await delete_positions(conn, 3)
    before = await store_content(conn)
    records = [one for one in read_archive(file) if one.HasField("header") or one.event.position == 3]
    records[1].event.received_at = microseconds(now + timedelta(hours=hours))
    write_records(file, records)
    with pytest.raises(OtherLog, match="the received_at of position 3 of the file doesn't fit between its neighbours"):
        await import_file(database_url, file)
    assert await store_content(conn) == before


async def test_a_store_whose_clock_was_far_ahead_is_repaired_from_its_own_export(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=3000)
    stored = [StoredEvent(at, ahead, event) for at, event in enumerate(store.new_events(3), 1)]
    await restore_events(conn, stored, store.QUICK)
    await export(conn, file)
    await delete_positions(conn, 2)
    assert (await import_file(database_url, file)).stored == 1
    with pytest.raises(ArchiveError, match="far in the future"):
        await import_file(elsewhere, file)


async def test_a_gap_after_the_head_of_the_file_is_moved_to_the_head(
    database_url: str, conn: AsyncConnection, elsewhere: str, file: Path
) -> None:
    await fill_store(database_url, conn)
    await export(conn, file)
    changed(file, "header", set_gaps(GAP | {"position": 2**62}))
    await import_file(elsewhere, file)
    async with open_connection(elsewhere) as there:
        found = await store.value(there, "SELECT holes->0->'position' FROM eventstore.cursors WHERE app = 'shop'")
        assert found == 9
