"""A projection that is written as a ``.sql`` file.

Invariants. The file is read when the projection is made, not when its module is imported, so a file that is wrong
breaks no other projection. It is read once in a process. What folds, rebuilds and verifies it is what does so for any
other projection.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sqlalchemy import Executable, Select

from projections.errors import InvalidProjection
from projections.folding.statement_text import StatementText
from projections.projection import OF_THIS_LOG_ONLY, Projection, Window
from projections.rules import check_projection
from projections.table_rules import check_table

if TYPE_CHECKING:
    from projections.sql_files.file_contents import FileContents
    from projections.sql_files.fold_statements import Parts


class SqlProjection(Projection):
    """A read model whose tables and fold come from a ``.sql`` file; :func:`projections.sql_projection` makes it."""

    statements: ClassVar[tuple[Parts, ...]]

    def fold(self, window: Window) -> Sequence[Executable]:
        """Return the statements of the file, with its tables and the window's events filled in."""
        of_window = cast("Select[Any]", window.events.element)
        columns = [column for column in of_window.selected_columns if column.name not in OF_THIS_LOG_ONLY]
        events = of_window.with_only_columns(*columns).subquery()
        return [StatementText(parts, events) for parts in self.statements]


class SqlFile:
    """A ``.sql`` file that holds a projection; calling it makes the projection, as calling a class does.

    Args:
        path: the file.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: type[SqlProjection] | None = None

    def __call__(self) -> Projection:
        """Return the projection.

        Raises:
            InvalidProjection: the file can't be read, or breaks a rule; the message has the file and the line, and says
                what to do.

        """
        if self._made is None:
            self._made = _make(self.path)
        return self._made()


def sql_projection(path: str | Path) -> SqlFile:
    """Return the projection that is written in a ``.sql`` file, for an entry point of the group ``projections``.

    Args:
        path: the file; a relative path begins in the folder of the module that calls this.

    """
    folder = Path(sys._getframe(1).f_globals.get("__file__", ".")).parent  # noqa: SLF001 - the caller's module
    return SqlFile(folder / path)


def _make(path: Path) -> type[SqlProjection]:
    # The parser takes a while to load, and is installed for those who have such files.
    from projections.sql_files.file_contents import read_contents  # noqa: PLC0415
    from projections.sql_files.sql_source import SqlSource  # noqa: PLC0415

    contents = read_contents(SqlSource(path))
    header = contents.header
    attributes = {
        "__doc__": f"The projection of {path.name}.",
        "name": header.name,
        "version": header.version,
        "handles": header.handles,
        "partition_by": header.partition_by,
        "absent_contracts": header.absent_contracts,
        "tables": tuple(contents.tables.values()),
        "views": tuple(contents.views.values()),
        "decided_by": contents.decided_by,
        "personal_columns": header.personal_columns,
        "statements": tuple(contents.fold),
    }
    made = type(f"SqlProjection_{header.name}", (SqlProjection,), attributes)
    _check(made(), contents)
    return made


def _check(projection: SqlProjection, contents: FileContents) -> None:
    """Apply the rules for all projections, with the line of what breaks one."""
    name = f"projection {projection.name!r}: "
    at = contents.header.at["name"]
    try:
        for table in projection.tables:
            at = contents.at[table.name]
            check_table(projection, table)
        at = contents.header.at["name"]
        check_projection(projection)
    except InvalidProjection as error:
        contents.source.refuse(at, str(error).removeprefix(name))
