"""What the built-in read models share: the metadata of their tables, and functions for their columns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Integer, MetaData, Text

from projections.projection import READ_MODEL_SCHEMA

metadata = MetaData(schema=READ_MODEL_SCHEMA)

VIEWS = frozenset({"consent_history", "event_log", "poll_results", "read_model_freshness"})
"""The views beside the tables; only the migrations create them."""


def key_column(name: str, comment: str) -> Column[str]:
    """Return a text column of a primary key."""
    return Column(name, Text, primary_key=True, comment=comment)


def text(name: str, comment: str, *more: Any, nullable: bool = True) -> Column[str]:  # noqa: ANN401 - SQLAlchemy's
    """Return a text column."""
    return Column(name, Text, *more, nullable=nullable, comment=comment)


def event_id(name: str, comment: str, *more: Any, nullable: bool = True) -> Column[str]:  # noqa: ANN401 - SQLAlchemy's
    """Return a column for a ULID; it compares by bytes."""
    return Column(name, Text(collation="C"), *more, nullable=nullable, comment=comment)


def time(name: str, comment: str, *more: Any, nullable: bool = True) -> Column[Any]:  # noqa: ANN401 - SQLAlchemy's
    """Return a column for a point in time."""
    return Column(name, DateTime(timezone=True), *more, nullable=nullable, comment=comment)


def count_column(name: str, comment: str, *, nullable: bool = False) -> Column[int]:
    """Return a column for a count."""
    return Column(name, Integer, nullable=nullable, comment=comment)
