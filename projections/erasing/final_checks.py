"""What follows an erasure: room of dead rows is freed, read models are verified, and the whole database is searched.

Each part can be done again by itself, and none of them changes a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from eventstore.errors import LockHeld, describe
from projections.erasing.clean_up import vacuum_changed_tables
from projections.erasing.leftovers import SearchResult, find_leftovers
from projections.errors import ProjectionsError
from projections.projection import Projection
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.verify import verify


@dataclass(slots=True)
class FinalChecks:
    """What was checked after an erasure.

    Attributes:
        not_vacuumed: tables that another session had locked.
        equal: the position at which each read model equals the log.
        different: the read models that don't equal the log.
        not_verified: why the others couldn't be verified, by name.
        search: what the search found; None if nothing was searched.

    """

    not_vacuumed: list[str] = field(default_factory=list)
    equal: dict[str, int] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    not_verified: dict[str, str] = field(default_factory=dict)
    search: SearchResult | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a number is left, or a read model doesn't equal the log."""
        return bool(self.different) or (self.search is not None and bool(self.search.found))


async def check_after_erasure(
    context: ReplayContext,
    projections: Mapping[str, Projection],
    numbers: Sequence[str],
    changed_tables: Sequence[str],
    found: FinalChecks,
    *,
    app: str | None,
    verifies: bool,
    is_distributed: bool = False,
) -> None:
    """Free the room of dead rows, verify the read models, and search the database for numbers.

    Args:
        context: the database, settings, and who receives the progress.
        projections: those that are verified.
        numbers: what to search for.
        changed_tables: what to vacuum.
        found: gets each result as soon as it is known.
        app: the app in which the persons were erased; None for every app.
        verifies: whether read models are verified, which reads the log once for each.
        is_distributed: whether the log is.

    Raises:
        psycopg.Error: the database failed, or the connection.

    """
    async with context.connection("erase") as conn:
        context.progress.phase("removing dead rows")
        found.not_vacuumed = await vacuum_changed_tables(conn, changed_tables, is_distributed=is_distributed)
    for name, projection in projections.items() if verifies else ():
        context.progress.phase(f"verifying {name}")
        try:
            verified = await verify(context, projection)
        except (ProjectionsError, LockHeld) as error:
            found.not_verified[name] = str(error)
            continue
        except psycopg.Error as error:  # of this projection; if the database is unavailable, the search fails too
            found.not_verified[name] = describe(error)
            continue
        if verified.equal:
            found.equal[name] = verified.position
        else:
            found.different.append(name)
    if numbers:
        async with context.connection("erase") as conn:
            context.progress.phase("searching the database")
            found.search = await find_leftovers(conn, numbers, app=app)
