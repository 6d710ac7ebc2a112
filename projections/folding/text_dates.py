"""Loads dates and times that Python can't represent, such as ``infinity``, as their text.

A user's column may hold any value that Postgres allows, and a comparison or an explanation must be able to read it.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, DataError
from psycopg.abc import Buffer, Loader
from psycopg.types import datetime as times


def _fall_back_to_text(loader: type[Loader]) -> type[Loader]:
    class LoaderOrText(loader):  # type: ignore[valid-type, misc]
        def load(self, data: Buffer) -> Any:  # noqa: ANN401 - any value
            try:
                return super().load(data)
            except (DataError, ValueError, OverflowError):
                return bytes(data).decode()

    return LoaderOrText


_LOADERS = {
    "date": _fall_back_to_text(times.DateLoader),
    "time": _fall_back_to_text(times.TimeLoader),
    "timetz": _fall_back_to_text(times.TimetzLoader),
    "timestamp": _fall_back_to_text(times.TimestampLoader),
    "timestamptz": _fall_back_to_text(times.TimestamptzLoader),
    "interval": _fall_back_to_text(times.IntervalLoader),
}


def load_odd_dates_as_text(conn: AsyncConnection[Any]) -> None:
    """Make a connection's queries return dates and times that Python lacks as text, instead of raising an error."""
    for name, loader in _LOADERS.items():
        conn.adapters.register_loader(name, loader)
