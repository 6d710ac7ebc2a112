"""A file with a correct digest is imported as valid data, or refused in one sentence; then nothing is imported."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.app_name import APP_NAME
from eventstore.contracts import Contract, decode
from eventstore.errors import ArchiveError, OtherLog
from eventstore.event_reader import read
from eventstore.transfer.archive import ArchiveWriter, read_archive
from tests.transferring import (
    assert_empty,
    delete_positions,
    export,
    fill_store,
    import_file,
    open_connection,
    store_content,
)

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, -3, 5, 9, 10, 2**31, 2**63 - 1, -(2**63), 253_402_300_800_000_000]),
    st.integers(-(2**63), 2**63 - 1),
)
TEXTS = st.one_of(
    st.sampled_from(["", "7", "[]", "{}", "null", "shop", "x\0", "chat.external", "[7]", '[{"upper": 1}]', "é" * 300]),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "copy", "drop", "swap", "clear"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        NUMBERS,
        TEXTS,
        st.binary(max_size=20),
    ),
    min_size=1,
    max_size=3,
)


def change(records: list[Any], how: str, which: int, field: int, number: int, text: str, raw: bytes) -> None:
    """Change one record in one way."""
    at = which % len(records)
    if how == "copy":
        records.insert(field % (len(records) + 1), records[at])
    elif how == "drop" and len(records) > 1:
        del records[at]
    elif how == "swap":
        other = field % len(records)
        records[at], records[other] = records[other], records[at]
    elif how == "clear":
        records[at].Clear()
    elif (kind := records[at].WhichOneof("record")) is not None:
        part: Message = getattr(records[at], kind)
        cursors = list(getattr(part, "cursors", ()))
        part = cursors[which // 7 % len(cursors)] if cursors and which % 2 else part
        names = [one for one in part.DESCRIPTOR.fields if one.name != "cursors"]
        chosen = names[field % len(names)]
        if chosen.type == chosen.TYPE_STRING:
            setattr(part, chosen.name, text)
        elif chosen.type == chosen.TYPE_BYTES:
            setattr(part, chosen.name, raw)
        else:
            small = chosen.type == chosen.TYPE_INT32
            setattr(part, chosen.name, number % 2**31 if small else number)


async def assert_valid(conn: AsyncConnection) -> None:
    """Assert that received events could have produced the stored data."""
    last, received = 0, None
    async for one in read(conn):
        assert one.position == last + 1
        assert received is None or one.received_at >= received
        assert APP_NAME.fullmatch(one.event.app)
        assert decode(one.event.payload, one.event.app, Contract(one.event.contract)) == one.event
        last, received = one.position, one.received_at
    found = await store_content(conn)
    for app, contract, last_event_id, _, holes in found["cursors"]:
        assert APP_NAME.fullmatch(app)
        assert contract is None or Contract(contract)
        assert last_event_id is None or ulid.is_ulid(last_event_id)
        assert isinstance(json.loads(json.dumps(holes)), list)
        assert all(ulid.is_ulid(hole["upper"]) and hole.get("position", 0) >= 0 for hole in holes)
    for app, contract, _, event_id, reason, _, first_seen, last_seen, times in found["quarantine"]:
        assert APP_NAME.fullmatch(app)
        assert Contract(contract)
        assert event_id is None or ulid.is_ulid(event_id)
        assert reason
        assert times > 0
        assert first_seen <= last_seen


async def empty(conn: AsyncConnection) -> None:
    """Delete all that was imported."""
    await delete_positions(conn, *range(1, 20))
    await conn.execute("DELETE FROM eventstore.cursors")
    await conn.execute("DELETE FROM eventstore.quarantine")
    await conn.execute("DELETE FROM eventstore.quarantine_counts")
    await assert_empty(conn)


@pytest.fixture
async def exported(database_url: str, conn: AsyncConnection, tmp_path: Path) -> Path:
    """A file with every kind of record."""
    file = tmp_path / "original"
    await fill_store(database_url, conn)
    await export(conn, file)
    return file


@pytest.fixture
async def target_conn(elsewhere: str) -> AsyncIterator[AsyncConnection]:
    """A connection to the database into which files are imported."""
    async with open_connection(elsewhere) as conn:
        yield conn


@given(changes=CHANGES)
@example(changes=[("set", 543, 543, 2**63 - 1, "chat.external", b"")] * 3)  # sums of such counts don't fit
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_changed_file_is_refused_or_imported_as_valid_data(
    exported: Path, elsewhere: str, target_conn: AsyncConnection, changes: list[tuple[str, int, int, int, str, bytes]]
) -> None:
    file = exported.with_name("changed")
    records = [record for record in read_archive(exported) if not record.HasField("end")]
    for one in changes:
        change(records, *one)
    with ArchiveWriter(file) as out:
        for record in records:
            out.write(record)
    refusal: str | None = None
    try:
        await import_file(elsewhere, file)
    except (ArchiveError, OtherLog) as error:
        refusal = str(error)
    if refusal is None:
        await assert_valid(target_conn)
        await empty(target_conn)
    else:
        assert len(refusal.splitlines()) == 1
        await assert_empty(target_conn)
