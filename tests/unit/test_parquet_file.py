"""A Parquet file has every column of every event of the file beside it, in types that DuckDB and Spark know."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest

from eventstore.archiving import parquet_file
from eventstore.archiving.parquet_file import compare_parquet, write_parquet
from eventstore.archiving.partition_file import as_record, range_header
from eventstore.contracts import Event
from eventstore.errors import ArchiveError, UsageError
from eventstore.transfer.archive import ArchiveWriter
from tests.folding import decode_record
from tests.transferring import sample_log

RECEIVED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


EVENTS = [decode_record(record) for record in sample_log()]


def write_events(path: Path, events: list[Event]) -> None:
    with ArchiveWriter(path) as file:
        file.write(range_header(len(events)))
        for position, event in enumerate(events, 1):
            file.write(as_record(position, RECEIVED, event))


async def test_it_has_every_column_of_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "ROWS", 3)
    write_events(tmp_path / "a.events", EVENTS)
    path = tmp_path / "a.parquet"
    await write_parquet(tmp_path / "a.events", path)
    table = import_module("pyarrow.parquet").read_table(path)
    assert table.column_names == ["position", "received_at", *Event._fields]
    assert {str(table.schema.field(name).type) for name in ("occurred_at", "received_at")} == {"timestamp[us, tz=UTC]"}
    assert str(table.schema.field("poll_options").type) == "list<element: string>"
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows == [(position, RECEIVED, *event) for position, event in enumerate(EVENTS, 1)]
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ArchiveError, match="already exists"):
        await write_parquet(tmp_path / "a.events", path)


async def test_a_file_that_differs_is_found(tmp_path: Path) -> None:
    write_events(tmp_path / "a.events", EVENTS)
    path = tmp_path / "a.parquet"
    await write_parquet(tmp_path / "a.events", path)
    content = path.read_bytes()
    write_events(tmp_path / "b.events", EVENTS[:-1])
    with pytest.raises(ArchiveError, match=rf"a\.parquet differs from b\.events at position {len(EVENTS)}$"):
        await compare_parquet(tmp_path / "b.events", path)
    await write_parquet(tmp_path / "b.events", tmp_path / "b.parquet")
    with pytest.raises(ArchiveError, match=rf"b\.parquet differs from a\.events at position {len(EVENTS)}$"):
        await compare_parquet(tmp_path / "a.events", tmp_path / "b.parquet")
    for damaged in (b"", content[:-9], b"x" * len(content)):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=r"a\.parquet is not a Parquet file, or is damaged$"):
            await compare_parquet(tmp_path / "a.events", path)


async def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'projections-engine\[parquet\]'"):
        await write_parquet(tmp_path / "a.events", tmp_path / "a.parquet")
