"""What differs between a table and its shadow: numbers of rows, and sample rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Changes:
    """How many rows of one table a rebuild changes; ``before`` is how many rows it had."""

    table: str
    before: int
    added: int
    removed: int
    changed: int

    @property
    def total(self) -> int:
        """All rows that differ."""
        return self.added + self.removed + self.changed


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that differs: ``old`` is the table's row, ``new`` the log's; None where there is no such row.

    ``key`` has the primary key's values by column. The rows have the columns that differ, or, where only one side has
    the row, all of its columns.
    """

    table: str
    key: Mapping[str, Any]
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None

    @property
    def kind(self) -> Literal["missing", "extra", "changed"]:
        """What is wrong with the table's row."""
        if self.old is None:
            return "missing"
        return "extra" if self.new is None else "changed"
