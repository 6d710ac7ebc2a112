"""Writes quarantined messages to a file: JSON Lines, one message a line, its bytes in base64.

The keys of a line: ``id``, ``app``, ``contract``, ``event_id`` (null if it could not be read), ``reason``,
``first_received`` and ``last_received`` (ISO 8601, UTC), ``times`` (how often it was received), ``sample`` (kept while
the quarantine was full), ``sha256`` (hexadecimal), ``payload`` (base64) and ``erased_at`` (null unless the bytes were
erased with a person). Keys may be added.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.quarantined.messages import MessageTotal, QuarantinedMessage, Selection, select_ids
from eventstore.quarantined.payload_chunks import read_chunks
from eventstore.transfer.new_file import NewFile


async def write_messages(
    conn: AsyncConnection[Any], path: Path, selection: Selection, *, replace: bool
) -> MessageTotal:
    """Write messages to a new file, which only its owner can read and which appears when it is complete.

    Returns:
        How many messages were written, and the bytes of their payloads.

    Raises:
        ArchiveError: the file can't be written, or exists already.
        psycopg.Error: the database failed, or the connection; no file is left.

    """
    chosen = await select_ids(conn, selection)
    messages = size = 0
    with NewFile(path, replace=replace) as file:
        async for chunk in read_chunks(conn, chosen):
            for message in chunk:
                file.write(json.dumps(_as_line(message)).encode() + b"\n")
                messages, size = messages + 1, size + message.size
    return MessageTotal(messages, size)


def _as_line(message: QuarantinedMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "app": message.app,
        "contract": message.contract,
        "event_id": message.event_id,
        "reason": message.reason,
        "first_received": _utc(message.first_seen),
        "last_received": _utc(message.last_seen),
        "times": message.times,
        "sample": message.is_sample,
        "sha256": message.sha256.hex(),
        "erased_at": None if message.erased_at is None else _utc(message.erased_at),
        "payload": base64.b64encode(message.payload or b"").decode(),
    }


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
