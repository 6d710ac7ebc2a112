"""Folds the events of a test with a projection, in any order and in windows of any size, in tables of the test's own.

Invariants. The kit works in schemas of its own, in one transaction that is never committed. So it neither reads nor
changes anything in the database, blocks nobody, and leaves nothing behind, however a test ends. The fold is the one
that workers run; only the schemas of its tables differ, as in a rebuild.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from sqlalchemy import Table, select

from eventstore.contracts import Event
from projections.blocks.block_projection import Block
from projections.folding.decided_rows import DELETED
from projections.folding.python_projection import PythonProjection
from projections.projection import Projection
from projections.rules import check_projection
from projections.testing.case_code import code_of_case
from projections.testing.fold_cases import FoldCase, arrange, cases_of, one_window, random_arrival
from projections.testing.kit_session import KitSession
from projections.testing.order_check import (
    describe_difference,
    describe_mismatch,
    find_difference,
    shrink_unexpected,
)

Order: TypeAlias = Literal["given", "reversed", "shuffled"] | Sequence[int]
"""An order of events: a name, or the indices of the events in that order."""

ExpectedRows: TypeAlias = (
    Mapping[Table, Iterable[Mapping[str, Any]]]
    | Mapping[str, Iterable[Mapping[str, Any]]]
    | Mapping[Block, Iterable[Mapping[str, Any]]]
)
"""The rows of each table (by the ``Table``, its name or its block) without tombstones, in any order. Each row has the
primary key; columns that it leaves out are not compared."""

Rows: TypeAlias = list[dict[str, Any]]

STORIES = 100
_CASES_OF_STORY = 12


class ProjectionKit:
    """Folds events with one projection and returns the rows; an async context manager.

    Args:
        url: a database in which the role may create schemas; it need not be migrated. None for the database in
            DATABASE_URL, or for the embedded one, which is then started, and created if there is none.
        projection: the projection; it is checked against the rules for registration.

    Raises:
        InvalidProjection: on entering, if it breaks a rule.
        psycopg.OperationalError: on entering, if the database can't be reached.

    """

    def __init__(self, url: str | None, projection: Projection) -> None:
        self.projection = projection
        self._url = url
        self._session: KitSession

    async def __aenter__(self) -> Self:
        check_projection(self.projection)
        self._session = await KitSession(self._url, self.projection).__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, traceback)

    async def given(
        self,
        events: Iterable[Event],
        *,
        order: Order = "given",
        seed: int = 1,
        batch_size: int | Sequence[int] | None = None,
        twice: bool = True,
        skipped: Sequence[str] = (),
    ) -> None:
        """Remove the events and rows of earlier calls, and fold these events.

        Args:
            events: the events; of several with the same event_id only the first counts, as in the event store.
            order: the order in which they arrive.
            seed: the seed of the shuffle, if ``order`` is ``shuffled``.
            batch_size: events in a window, or how many each window has in turn; None for all in one window.
            twice: fold each window twice, and in the end all events once more; the rows must be the same.
            skipped: event_ids that the projection skips.

        Raises:
            Exception: any error of the fold.

        """
        arrived = _in_order(_unique(events), order, seed)
        if isinstance(batch_size, int):
            batch_size = [batch_size] * (len(arrived) // max(batch_size, 1))
        await self._session.fold(arrange(arrived, batch_size or (), twice=twice), skipped)

    async def rows(self, table: Table | str | Block, *, deleted: bool = False) -> Rows:
        """Return a table's rows as dictionaries, ordered by primary key.

        Args:
            table: one of the projection's tables, or its name.
            deleted: whether to return tombstones too, if the projection folds in Python.

        """
        table = self._table(table)
        query = select(table).order_by(*table.primary_key.columns)
        if isinstance(self.projection, PythonProjection) and DELETED in table.c and not deleted:
            query = query.where(~table.c[DELETED])
        return await self._session.fetch(query)

    async def assert_same_for_every_order(
        self, events: Sequence[Event], expected: ExpectedRows | None = None, *, seed: int = 1
    ) -> None:
        """Fold the events in many orders, cuts and repetitions; the rows must be the same each time.

        Up to four events are folded in every order, cut into windows in every way, each event once; and in every order
        with repetition. Of more events, a sample is folded: each event first and last, alone in its window; each pair
        of neighbours swapped, also of neighbours in one partition; each cut in two; windows of one and of two; and 60
        shuffles with random cuts. It ends at 600 cases, or 100,000 events in all cases together (but 30 cases at
        least); of very many events, windows are longer, so that there are 200 at most.

        Args:
            events: the events, at least two for the order to matter.
            expected: the rows that each named table must have.
            seed: of the sample.

        Raises:
            AssertionError: the rows differ; the message shows the rows, and the fewest events that differ, as code.
            Exception: any error of the fold, if it fails in one window too.

        """
        given = _unique(events)
        await self.given(given, twice=False)
        if why := await self._describe_mismatch(expected or {}, "order='given', batch_size=None, twice=False"):
            raise AssertionError(why)
        await self._assert_same(given, cases_of(given, self.projection.partition_by, seed))

    async def hold_for_random_events(
        self,
        n: int = STORIES,
        expected: Callable[[Sequence[Event]], ExpectedRows] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """Fold random stories, each in several orders and cuts; the rows must be the same each time.

        A story is about ten events from the simulator's worlds: few people and requests, most events of the types that
        the projection handles. Some happen again under another event_id, on another day.

        Args:
            n: how many stories.
            expected: computes the expected rows from events, which are in the order of their event_ids.
            seed: of the first story, the next one's is greater by one; None for any. A failure shows it.

        Raises:
            AssertionError: the rows differ; the message has the story's seed, and shows the rows, and the fewest events
                that differ, as code.
            Exception: any error of the fold, if it fails in one window too; a note has the story's seed.

        """
        from projections.testing.random_stories import random_story  # noqa: PLC0415 - the simulator takes long to load

        first = secrets.randbelow(10**9) if seed is None else seed
        for story in range(first, first + n):
            events = random_story(story, self.projection.handles)
            numbers = random.Random(story)  # noqa: S311 - must be repeatable, not secret
            arrivals = [random_arrival(len(events), numbers) for _ in range(_CASES_OF_STORY)]
            singles = [arrange(arrived, [1] * len(events)) for arrived in (events, events[::-1])]
            try:
                if expected is not None:
                    await self._assert_expected(one_window(events), expected)
                await self._assert_same(events, [*singles, *(arrival.case_of(events) for arrival in arrivals)])
            except Exception as error:
                error.add_note(f"the story has seed {story}: hold_for_random_events(1, seed={story}) repeats it")
                raise

    async def _assert_same(self, events: Sequence[Event], cases: Iterable[FoldCase]) -> None:
        case = await find_difference(self._session, events, cases)
        if case is not None:
            raise AssertionError(await describe_difference(self._session, self.projection.tables, case))

    async def _assert_expected(self, case: FoldCase, expected: Callable[[Sequence[Event]], ExpectedRows]) -> None:
        async def find_mismatch(of: FoldCase) -> str | None:
            await self._session.fold(of)
            return await self._describe_mismatch(expected(of.events), "in one window")

        if await find_mismatch(case) is not None:
            case = await shrink_unexpected(self._session, case, find_mismatch)
            raise AssertionError(f"{await find_mismatch(case)}\n\n{code_of_case(case)}")

    async def _describe_mismatch(self, expected: ExpectedRows, how: str) -> str | None:
        for table, rows in expected.items():
            why = describe_mismatch(self._table(table), await self.rows(table), [*rows], how)
            if why is not None:
                return why
        return None

    def _table(self, table: Table | str | Block) -> Table:
        if isinstance(table, Table):
            return table
        if not isinstance(table, str):
            return table.table
        named = {one.name: one for one in self.projection.tables}
        if table not in named:
            raise ValueError(f"{table!r} is not a table of {self.projection.name}; its tables: {', '.join(named)}")
        return named[table]


def _unique(events: Iterable[Event]) -> list[Event]:
    unique: dict[str, Event] = {}
    for event in events:
        unique.setdefault(event.event_id, event)
    return [*unique.values()]


def _in_order(events: list[Event], order: Order, seed: int) -> list[Event]:
    if order == "given":
        return events
    if order == "reversed":
        return events[::-1]
    if order == "shuffled":
        return random.Random(seed).sample(events, len(events))  # noqa: S311 - a shuffle for a test, not a secret
    indices = [index for index in order if isinstance(index, int)]
    if sorted(indices) != list(range(len(events))):
        raise ValueError(f"order must have the index of each of the {len(events)} events once, from 0")
    return [events[index] for index in indices]
