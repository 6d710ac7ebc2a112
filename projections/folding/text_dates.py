"""Reads whatever a column may hold: a value that Postgres has and Python hasn't, as ``infinity``, comes as its text."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, DataError
from psycopg.abc import Buffer, Loader
from psycopg.types import datetime as times


def _or_text(loader: type[Loader]) -> type[Loader]:
    class OrText(loader):  # type: ignore[valid-type, misc]
        def load(self, data: Buffer) -> Any:  # noqa: ANN401 - any value
            try:
                return super().load(data)
            except (DataError, ValueError, OverflowError):
                return bytes(data).decode()

    return OrText


_LOADERS = {
    "date": _or_text(times.DateLoader),
    "time": _or_text(times.TimeLoader),
    "timetz": _or_text(times.TimetzLoader),
    "timestamp": _or_text(times.TimestampLoader),
    "timestamptz": _or_text(times.TimestamptzLoader),
    "interval": _or_text(times.IntervalLoader),
}


def load_odd_dates_as_text(conn: AsyncConnection[Any]) -> None:
    """Let queries of a connection return rows that people may have put anything into."""
    for name, loader in _LOADERS.items():
        conn.adapters.register_loader(name, loader)
