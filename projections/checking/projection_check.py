"""Checks a projection: the plans of its fold on the database at hand, and its fold over stories of the real log.

Invariants. Nothing is written except in temporary tables, in transactions that are never committed; each story has a
transaction of its own, so none lasts long. A part that this database or this role doesn't allow is left out, and the
result says why; that is no problem of the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors

from eventstore.contracts import Event
from eventstore.event_reader import read_head
from eventstore.postgres.connection import connect
from eventstore.postgres.queries import fetch_row
from eventstore.postgres.session_settings import FOLDING
from eventstore.waits import Waits
from projections.checking.fold_plans import StatementPlan, read_fold_plans
from projections.checking.handle_pass import find_refused_event
from projections.checking.log_sample import draw_stories, without_personal_data
from projections.errors import HandleFailed, InvalidProjection, describe_user_code_error
from projections.folding.python_projection import PythonProjection
from projections.migrating.missing_tables import not_migrated
from projections.projection import Projection
from projections.rebuilding.replay_progress import Progress
from projections.running.checkpoint import read_skips
from projections.testing.fold_cases import cases_of
from projections.testing.kit_session import KIT_TABLES, KitSession
from projections.testing.order_check import describe_difference, find_difference

CASES_OF_STORY = 40
CASES_OF_ALL = 30
"""Orders and cuts in which a story is folded, and the events of all stories together."""
_MAY_FOLD = (
    "SELECT has_database_privilege(current_database(), 'CREATE'),"
    " has_database_privilege(current_database(), 'TEMPORARY'), pg_is_in_recovery()"
)


@dataclass(frozen=True, slots=True)
class OrderTest:
    """What the fold did with events of the log.

    Attributes:
        stories: how many stories were folded.
        events: how many different events these have.
        problem: what is wrong, with code that shows it; None if the rows were always the same.

    """

    stories: int
    events: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class ProjectionCheck:
    """What a check found out.

    Attributes:
        plans: the plan of each statement; None if that part was left out.
        order: the order test; None if that part was left out.
        left_out: for each part that was left out, why.

    """

    plans: list[StatementPlan] | None
    order: OrderTest | None
    left_out: dict[str, str]

    @property
    def is_ok(self) -> bool:
        """Whether nothing wrong was found."""
        scans = any(plan.scans for plan in self.plans or ())
        return not scans and (self.order is None or self.order.problem is None)


async def run_projection_check(
    url: str, waits: Waits, projection: Projection, *, window: int, seed: int, progress: Progress
) -> ProjectionCheck:
    """Check a projection that keeps the rules.

    Args:
        url: the migrated database.
        waits: timeouts of connections.
        projection: the projection.
        window: how many positions a worker folds at once.
        seed: of the sample of the log.
        progress: receives the progress of the order test.

    Raises:
        InvalidProjection: Postgres refuses a statement of its fold.
        psycopg.Error: the database failed, or the connection.

    """
    left_out: dict[str, str] = {}
    plans: list[StatementPlan] | None = None
    order: OrderTest | None = None
    async with await connect(url, name="projections check", waits=waits, settings=FOLDING) as conn:
        head = await read_head(conn)
        if (why := await not_migrated(conn, projection)) is not None:
            left_out["plans"] = why
        else:
            try:
                plans = await read_fold_plans(conn, projection, head=head, many=window)
            except errors.InsufficientPrivilege:
                left_out["plans"] = (
                    "this role may not fold, and Postgres shows the plans only to who may; use the role of projections"
                    " run"
                )
        temporary = KIT_TABLES[0] not in {table.name for table in projection.tables}
        if (why := await _why_not_fold(conn, temporary=temporary)) is not None:
            left_out["order"] = why
        else:
            stories = await _stories(conn, projection, head, seed)
            if not stories:
                left_out["order"] = "the newest events and a sample of older ones have none that it handles"
            else:
                order = await _test_order(url, projection, stories, seed, progress, temporary=temporary)
    return ProjectionCheck(plans, order, left_out)


async def _why_not_fold(conn: AsyncConnection[Any], *, temporary: bool) -> str | None:
    may_create, may_create_temporary, is_standby = await fetch_row(conn, _MAY_FOLD) or (False, False, False)
    if is_standby:
        return "this server is a standby, which lets nobody create tables; run the check on its primary"
    if temporary and not may_create_temporary:
        return (
            "this role may not create temporary tables, in which the test would fold; use the role of projections run"
        )
    if not temporary and not may_create:
        return (
            "a table of this projection has the name of our event table, so the test needs a schema of its own, and"
            " this role may create none in this database; use a role with the privilege CREATE on the database"
        )
    return None


async def _stories(conn: AsyncConnection[Any], projection: Projection, head: int, seed: int) -> list[list[Event]]:
    """Return the stories, and at last all events together."""
    skipped = await read_skips(conn, projection.name, projection.version)
    stories = await draw_stories(conn, projection, head=head, skipped=skipped, seed=seed)
    together = {event.event_id: event for story in stories for event in story}
    return [*stories, [*together.values()]] if len(stories) > 1 else stories


async def _test_order(
    url: str,
    projection: Projection,
    stories: Sequence[list[Event]],
    seed: int,
    progress: Progress,
    *,
    temporary: bool,
) -> OrderTest:
    events = {event.event_id: event for story in stories for event in story}
    if isinstance(projection, PythonProjection):
        refused = find_refused_event(projection, events.values())
        if refused is not None:
            return OrderTest(len(stories), len(events), refused)
    folded = 0
    progress.phase("testing many orders of", target=sum(map(len, stories)))
    for number, story in enumerate(stories, 1):
        is_all = number == len(stories) > 1
        cases = cases_of(story, projection.partition_by, seed, most=CASES_OF_ALL if is_all else CASES_OF_STORY)
        async with KitSession(url, projection, temporary=temporary) as session:
            try:
                case = await find_difference(session, story, cases)
                if case is not None:
                    found = await describe_difference(session, projection.tables, case, without_personal_data)
                    return OrderTest(number, len(events), found)
            except (psycopg.Error, HandleFailed, InvalidProjection) as error:
                if session.conn.closed:
                    raise
                ids = ", ".join(event.event_id for event in story[:10])
                why = f"the fold fails: {describe_user_code_error(error)}; it was given the events {ids}"
                return OrderTest(number, len(events), why)
        folded += len(story)
        progress.at(folded)
    return OrderTest(len(stories), len(events), None)
