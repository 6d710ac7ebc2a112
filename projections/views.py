"""A view of a projection: a query over read models that has a name, and a comment for people.

Invariants. A view is no part of a fold: it may read any table, and it may use the clock. ``projections migrate``
creates it and replaces it; a rebuild changes the rows of tables in place, so it never touches a view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sqlalchemy import CompoundSelect, Select


@dataclass(frozen=True, slots=True)
class View:
    """A view in schema ``public``.

    Attributes:
        name: its name.
        query: a query, as text or as a SELECT of SQLAlchemy. A text names tables with their schema:
            ``FROM public.daily_costs``.
        comment: what it shows.
        columns: the comments of its columns, by name.

    """

    name: str
    query: str | Select[*tuple[Any, ...]] | CompoundSelect[*tuple[Any, ...]]
    comment: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
