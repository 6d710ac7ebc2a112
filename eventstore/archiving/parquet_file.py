"""Archived events as a Parquet file, for DuckDB and Spark: one column for each of ``eventstore.events``.

Invariants. The file appears only when it is complete. It is read back from the disk and compared with the events of the
other file, column by column; times are microseconds in UTC. The engine itself never reads events from a Parquet file.

pyarrow is an optional dependency (``parquet``), and is loaded only here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from eventstore.archiving.partition_file import in_batches, read_stored_events
from eventstore.contracts import Event
from eventstore.errors import ArchiveError, UsageError
from eventstore.event_reader import StoredEvent
from eventstore.transfer.new_file import NewFile

ROWS = 20_000
"""Events in a row group: as many are in memory."""

_INSTALL = "Parquet files need pyarrow: pip install 'projections-engine[parquet]'"
_INT32 = (
    "event_type",
    "poll_options_dropped",
    "summary_status",
    "total_recipients",
    "delivered",
    "failed",
    "pending_consent",
)
_TIMES = ("occurred_at", "received_at", "recipient_created_at", "summary_created_at", "summary_completed_at")
_REQUIRED = {"position", "event_id", "app", "contract", "event_type", "occurred_at", "received_at", "payload"}
_COLUMNS = ("position", "received_at", *Event._fields)


class _Arrow(NamedTuple):
    """pyarrow's modules."""

    arrow: ModuleType
    parquet: ModuleType


def check_parquet_is_installed() -> None:
    """Check that Parquet files can be written.

    Raises:
        UsageError: pyarrow isn't installed.

    """
    _load()


def _load() -> _Arrow:
    try:
        return _Arrow(import_module("pyarrow"), import_module("pyarrow.parquet"))
    except ImportError as error:
        raise UsageError(_INSTALL) from error


def _schema(arrow: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    types = {
        "position": arrow.int64(),
        "payload": arrow.binary(),
        "poll_options": arrow.list_(arrow.string()),
        **dict.fromkeys(_INT32, arrow.int32()),
        **dict.fromkeys(_TIMES, arrow.timestamp("us", tz="UTC")),
    }
    fields = [arrow.field(name, types.get(name, arrow.string()), nullable=name not in _REQUIRED) for name in _COLUMNS]
    return arrow.schema(fields)


async def write_parquet(events_file: Path, path: Path, *, replace: bool = False) -> None:
    """Write the events of a file in the export format to a Parquet file, and compare both.

    Args:
        events_file: the file in the export format.
        path: the Parquet file; it appears only when it is complete.
        replace: whether an existing file is replaced.

    Raises:
        ArchiveError: a file can't be read or written, or what was read back differs.
        UsageError: pyarrow isn't installed.

    """
    modules = _load()
    with NewFile(path, replace=replace) as file:
        schema = _schema(modules.arrow)
        with modules.parquet.ParquetWriter(_Sink(file), schema, compression="zstd") as writer:
            for batch in in_batches(read_stored_events(events_file), ROWS):
                writer.write_batch(_as_batch(modules, schema, batch))
                await asyncio.sleep(0)
    await compare_parquet(events_file, path)


class _Sink:
    """What pyarrow writes to: a new file, which turns errors of the disk into sentences."""

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self.closed = False

    def write(self, data: Any) -> int:  # noqa: ANN401 - a buffer of pyarrow
        self._file.write(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is complete."""

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _as_batch(modules: _Arrow, schema: Any, events: list[StoredEvent]) -> Any:  # noqa: ANN401 - pyarrow has no types
    rows = [(one.position, one.received_at, *one.event) for one in events]
    columns = [
        modules.arrow.array(values, type=schema.field(name).type)
        for name, values in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    ]
    return modules.arrow.record_batch(columns, schema=schema)


async def compare_parquet(events_file: Path, path: Path) -> None:
    """Read a Parquet file and compare it with a file in the export format.

    Raises:
        ArchiveError: it can't be read, or differs.
        UsageError: pyarrow isn't installed.

    """
    modules = _load()
    schema = _schema(modules.arrow)
    groups = _row_groups(modules, path)
    for batch in in_batches(read_stored_events(events_file), ROWS):
        expected = modules.arrow.Table.from_batches([_as_batch(modules, schema, batch)])
        found = next(groups, None)
        if found is None or not found.equals(expected):
            position = _first_difference(expected, found) + batch[0].position
            raise ArchiveError(f"{path} differs from {events_file.name} at position {position:,}")
        await asyncio.sleep(0)
    if next(groups, None) is not None:
        raise ArchiveError(f"{path} has more events than {events_file.name}")


def _first_difference(expected: Any, found: Any) -> int:  # noqa: ANN401 - pyarrow has no types
    rows = [] if found is None else found.to_pylist()
    pairs = enumerate(zip_longest(expected.to_pylist(), rows))
    return next(number for number, (one, other) in pairs if one != other)


def _row_groups(modules: _Arrow, path: Path) -> Iterator[Any]:
    """Yield the row groups of a file: a batch of events was written as one."""
    try:
        with modules.parquet.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=list(_COLUMNS)).cast(_schema(modules.arrow))
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror or 'it is not a Parquet file'}") from error
    except (modules.arrow.ArrowException, KeyError, ValueError) as error:
        raise ArchiveError(f"{path} is not a Parquet file, or is damaged") from error
