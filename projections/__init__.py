"""Projections: read models that are folded from the event store, and the ``projections`` command.

The names below are the public API; docs/api.md says what is stable. Everything else in this package is internal, except
``projections.testing``.
"""

from typing import TYPE_CHECKING

from eventstore.lazy_names import load_on_demand

__all__ = [
    "EventType",
    "HandleFailed",
    "InvalidProjection",
    "Projection",
    "ProjectionsError",
    "PythonProjection",
    "Row",
    "Tombstone",
    "View",
    "Window",
    "sql_projection",
    "table_from",
]

if TYPE_CHECKING:
    from eventstore.contracts.event_types import EventType
    from projections.errors import HandleFailed, InvalidProjection, ProjectionsError
    from projections.folding.python_projection import PythonProjection, Row, Tombstone
    from projections.folding.row_types import table_from
    from projections.projection import Projection, Window
    from projections.sql_files.sql_projection import sql_projection
    from projections.views import View
else:
    __getattr__ = load_on_demand(
        __name__,
        {
            "eventstore.contracts.event_types": ("EventType",),
            "projections.errors": ("HandleFailed", "InvalidProjection", "ProjectionsError"),
            "projections.folding.python_projection": ("PythonProjection", "Row", "Tombstone"),
            "projections.folding.row_types": ("table_from",),
            "projections.projection": ("Projection", "Window"),
            "projections.sql_files.sql_projection": ("sql_projection",),
            "projections.views": ("View",),
        },
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
