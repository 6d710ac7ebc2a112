"""Reads the bytes of chosen messages in chunks of bounded size, so that memory doesn't grow with the quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from eventstore.postgres.byte_pages import PAGE_BYTES, PAGE_ROWS
from eventstore.postgres.queries import fetch_all
from eventstore.quarantined.messages import MESSAGE_COLUMNS, QuarantinedMessage

_SIZES = "SELECT id, octet_length(payload) FROM eventstore.quarantine WHERE id = ANY(%s) ORDER BY id"
_CHUNK = sql.SQL("SELECT {columns}, payload FROM eventstore.quarantine WHERE id = ANY(%s) ORDER BY id").format(
    columns=MESSAGE_COLUMNS
)


async def read_chunks(
    conn: AsyncConnection[Any], ids: Sequence[int], *, rows: int = PAGE_ROWS, size: int = PAGE_BYTES
) -> AsyncIterator[list[QuarantinedMessage]]:
    """Yield messages with their bytes, by number; those that are gone by then are left out.

    Args:
        conn: an autocommit connection: no snapshot outlives a chunk.
        ids: the numbers of the messages.
        rows: messages of a chunk, at the most.
        size: bytes of payloads after which a chunk ends.

    """
    for begin in range(0, len(ids), rows):
        chunk: list[int] = []
        left = size
        for number, length in await fetch_all(conn, _SIZES, [list(ids[begin : begin + rows])]):
            chunk.append(number)
            left -= length
            if left <= 0:
                yield await _read(conn, chunk)
                chunk, left = [], size
        if chunk:
            yield await _read(conn, chunk)


async def _read(conn: AsyncConnection[Any], ids: list[int]) -> list[QuarantinedMessage]:
    async with conn.cursor(row_factory=class_row(QuarantinedMessage)) as cursor:
        return await fetch_all(cursor, _CHUNK, [ids], binary=True)
