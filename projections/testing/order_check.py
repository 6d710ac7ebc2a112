"""Finds a case in which a fold gives other rows, shrinks it, and describes it as code.

Invariants. Each case is compared with the same events in one window, by event_id, folded once. An error that only the
case raises is a difference too. Events that can't be folded even in one window are no difference: the error is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Table, select

from eventstore.contracts import Event
from projections.errors import describe_user_code_error
from projections.testing.case_code import code_of_case, code_of_rows
from projections.testing.case_shrinking import StillFails, shrink
from projections.testing.fold_cases import FoldCase, one_window
from projections.testing.kit_session import KitSession


async def find_difference(session: KitSession, events: Sequence[Event], cases: Iterable[FoldCase]) -> FoldCase | None:
    """Return the first of the cases of these events that gives other rows; None if none does.

    Raises:
        Exception: the events can't be folded in one window either.

    """
    expected = await session.fold_to_texts(one_window(events))
    for case in cases:
        try:
            rows = await session.fold_to_texts(case)
        except Exception:
            if session.conn.closed:
                raise
            return case
        if rows != expected:
            return case
    return None


async def describe_difference(
    session: KitSession,
    tables: Sequence[Table],
    case: FoldCase,
    disguise: Callable[[FoldCase], FoldCase] | None = None,
) -> str:
    """Shrink a case that gives other rows, and return a sentence with the code that shows it.

    Args:
        session: the kit's.
        tables: the projection's.
        case: the case.
        disguise: returns a case that may be printed; None for a test's own events.

    """

    async def differs(smaller: FoldCase) -> bool:
        return await find_difference(session, smaller.events, [smaller]) is not None

    still_differs = _or_not_at_all(session, differs)
    case = await shrink(case, still_differs)
    if disguise is not None:
        disguised = disguise(case)
        if not await still_differs(disguised):
            return (
                "rows depend on order, window size or repetition, of events like these (their phone numbers and texts"
                f" are made up, and with these the rows are the same):\n\n{code_of_case(disguised)}"
            )
        case = disguised
    expected = await session.fold_to_texts(one_window(case.events))
    try:
        found = await session.fold_to_texts(case)
    except Exception as error:
        if session.conn.closed:
            raise
        return (
            f"the fold can fail, depending on order, window size or repetition:\n\n{code_of_case(case)}\n"
            f"# the fold fails: {describe_user_code_error(error)}"
        )
    table = next(table for table in tables if found[table.name] != expected[table.name])
    rows = code_of_rows(await _rows_after(session, table, case))
    others = code_of_rows(await _rows_after(session, table, one_window(case.events)))
    return (
        f"{table.name} depends on order, window size or repetition:\n\n{code_of_case(case)}\n"
        f"# {table.name} then:\n{rows}\n# {table.name} of the same events in one window:\n{others}"
    )


async def shrink_unexpected(
    session: KitSession, case: FoldCase, find_mismatch: Callable[[FoldCase], Awaitable[str | None]]
) -> FoldCase:
    """Return the fewest events, in one window, of whose rows ``find_mismatch`` still finds one that is wrong."""

    async def fails(smaller: FoldCase) -> bool:
        return await find_mismatch(one_window(smaller.events)) is not None

    return one_window((await shrink(case, _or_not_at_all(session, fails))).events)


def describe_mismatch(
    table: Table, rows: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], how: str
) -> str | None:
    """Return a sentence if a table's rows are not the expected ones; columns that these leave out don't count."""
    key = [column.name for column in table.primary_key.columns]
    wanted = {tuple(row[name] for name in key): dict(row) for row in expected}
    found = {tuple(row[name] for name in key): row for row in rows}
    named = {at: {name: row[name] for name in wanted.get(at, row) if name in row} for at, row in found.items()}
    if named == wanted and len(wanted) == len(expected):
        return None
    return f"{table.name} ({how}): {rows} != {expected}"


async def _rows_after(session: KitSession, table: Table, case: FoldCase) -> list[dict[str, Any]]:
    await session.fold(case)
    return await session.fetch(select(table).order_by(*table.primary_key.columns))


def _or_not_at_all(session: KitSession, fails: StillFails) -> StillFails:
    """Return the same check; events that can't be folded at all don't fail as the first ones did."""

    async def still_fails(case: FoldCase) -> bool:
        try:
            return await fails(case)
        except Exception:
            if session.conn.closed:
                raise
            return False

    return still_fails
