"""Shared by tests of export and import: fills a store with every kind of row, and exports and imports files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.contracts import Contract, Event, decode
from eventstore.ingest.context import IngestContext
from eventstore.transfer.export import Exported, export_events
from eventstore.transfer.importing import Imported, import_events
from tests import oracle, store, wire
from tests.folding import append, new_record
from tests.oracle import Record
from tests.queries import fetch_all
from tests.store import QUICK

SHOP = "shop"
GAP = {
    "lower": None,
    "upper": store.next_ulid(),
    "noticed_at": "2026-01-02T03:04:05+00:00",
    "detail": "é",
    "position": 2,
}
SUMMARY = oracle.Summary(3, 2, 1, 0, 1)


def ignore_progress(_done: int, _of: int) -> None:
    """Ignore the progress."""


async def export(conn: AsyncConnection, file: Path) -> Exported:
    return await export_events(conn, file, ignore_progress)


async def import_file(url: str, file: Path) -> Imported:
    return await import_events(IngestContext(url, QUICK), file, on_progress=ignore_progress)


def sample_log() -> list[Record]:
    """Return events of two apps, both contracts and every type."""
    chat = [
        new_record(oracle.PENDING_CONSENT),
        new_record(oracle.DELIVERED),
        new_record(oracle.FAILED, "12300000002"),
        new_record(oracle.POLL_RESPONSE, options=("yes", 'NULL, "{é}\\')),
        new_record(oracle.POLL_RESPONSE, "12300000002", options=()),
        new_record(oracle.COMPLETED, None, summary=SUMMARY),
        new_record(2**31 - 1, None, request=None),
    ]
    return [*chat, *(new_record(kind, app=SHOP) for kind in (oracle.GRANTED, oracle.DENIED)), chat.pop(1)]


async def fill_store(url: str, conn: AsyncConnection) -> None:
    """Fill a store with events, cursors with gaps, and quarantined messages."""
    records = sample_log()
    await append(conn, *records[:4])
    await append(conn, *records[4:])
    await conn.execute(
        "INSERT INTO eventstore.cursors (app, contract, last_event_id, last_received_at, holes, epoch, last_error)"
        " VALUES (%s, 'chat.external', %s, clock_timestamp(), %s::text::jsonb, 7, 'unavailable')",
        [SHOP, records[-1].event_id, json.dumps([GAP])],
    )
    await store.set_epoch(conn, "new")
    async with store.appender(url) as appender:
        rejected = [store.garbage(1), store.garbage(2), store.garbage(1), store.garbage(1, "clinic")]
        await appender.append([], rejected=rejected)


EVERYTHING = {
    "events": "SELECT * FROM eventstore.events ORDER BY position",
    "cursors": "SELECT app, contract, last_event_id, last_received_at, holes FROM eventstore.cursors ORDER BY app",
    "quarantine": (
        "SELECT app, contract, sha256, event_id, reason, payload, first_seen, last_seen, count"
        " FROM eventstore.quarantine ORDER BY id"
    ),
}


async def store_content(conn: AsyncConnection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await fetch_all(conn, query.encode(), binary=True) for name, query in EVERYTHING.items()}


@asynccontextmanager
async def open_connection(url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(url, "reading") as conn:
        yield conn


async def delete_positions(conn: AsyncConnection, *positions: int) -> None:
    """Delete events, which the table's owner can do by disabling the triggers."""
    async with conn.transaction():
        await conn.execute("ALTER TABLE eventstore.events DISABLE TRIGGER USER")
        await conn.execute("DELETE FROM eventstore.events WHERE position = ANY(%s)", [list(positions)])
        await conn.execute("DELETE FROM eventstore.event_ids WHERE position = ANY(%s)", [list(positions)])
        await store.enable_triggers(conn)


async def assert_empty(conn: AsyncConnection) -> None:
    assert await store_content(conn) == {"events": [], "cursors": [], "quarantine": []}


def read_content(file: Path) -> bytes:
    return file.read_bytes()


def write_content(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def large_events(size: int, count: int) -> list[Event]:
    return [
        decode(wire.event(store.next_ulid(), more=wire.bytes_field(99, bytes(size))), "app", Contract.CHAT_EXTERNAL)
        for _ in range(count)
    ]


async def stored_digests(conn: AsyncConnection) -> list[Any]:
    query = "SELECT position, event_id, received_at, sha256(payload) FROM eventstore.events ORDER BY position"
    return await fetch_all(conn, query)
