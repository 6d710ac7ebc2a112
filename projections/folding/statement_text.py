"""A fold's statement that is given as text, with its tables and the window's events to be filled in.

Tables are filled in as SQLAlchemy fills in its own, so that a shadow's, a test's and an as-of's schemas replace theirs.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from sqlalchemy import Executable, Subquery, Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement


class Placeholder(Enum):
    """What stands in a text for something that is no table."""

    EVENTS = auto()
    """The events of the window, as a query in parentheses."""


class StatementText(Executable, ClauseElement):
    """An INSERT, UPDATE or DELETE as text, which returns no rows.

    Args:
        parts: the text, in parts between its tables and the window's events.
        events: the window's events.

    """

    inherit_cache = False

    def __init__(self, parts: tuple[str | Table | Placeholder, ...], events: Subquery) -> None:
        self.parts = parts
        self.events = events


@compiles(StatementText)
def _render(statement: StatementText, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    rendered = []
    for part in statement.parts:
        if isinstance(part, str):
            rendered.append(part)
        elif isinstance(part, Table):
            rendered.append(compiler.preparer.format_table(part))
        else:
            rendered.append(f"({compiler.process(statement.events.element, asfrom=True, **options)})")
    return "".join(rendered)
