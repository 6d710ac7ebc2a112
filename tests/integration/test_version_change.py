"""A new column by migration and rebuild, old and new code side by side, as docs/writing-a-projection.md has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from psycopg import AsyncConnection
from sqlalchemy import Column, Executable, MetaData, Table, Text, select
from sqlalchemy.dialects.postgresql import distinct_on, insert

from projections.errors import ProjectionsError
from projections.migrate import require_current_schema, upgrade
from projections.projection import Projection, Window
from projections.worker import Step
from tests import folding, oracle, rebuilding, store
from tests.folding import append, connected, fold, stand, told, worker
from tests.rebuilding import every_row, happenings, live_load, rebuild, verify

REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{number}"
down_revision = {before!r}


def upgrade() -> None:
    {step}
"""
MAKE = (
    'op.create_table("outcomes", sa.Column("app", sa.Text(), primary_key=True),'
    ' sa.Column("ppnum", sa.Text(), primary_key=True), sa.Column("event_id", sa.Text(collation="C"), nullable=False),'
    ' schema="public")'
)
ADD = 'op.add_column("outcomes", sa.Column("send_request_id", sa.Text()), schema="public")'
BY_HAND = "ALTER TABLE public.outcomes ADD COLUMN send_request_id text"


def a_table(*more: Column[str]) -> Table:
    return Table(
        "outcomes",
        MetaData(schema="public"),
        Column("app", Text, primary_key=True, comment="Whose."),
        Column("ppnum", Text, primary_key=True, comment="To whom."),
        Column("event_id", Text(collation="C"), nullable=False, comment="The last event."),
        *more,
        comment="The last outcome of each recipient.",
    )


class Old(Projection):
    name: ClassVar[str] = "outcomes"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED, oracle.FAILED})
    tables: ClassVar[tuple[Table, ...]] = (a_table(),)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")
    columns: ClassVar[tuple[str, ...]] = ("app", "ppnum", "event_id")

    def fold(self, window: Window) -> Sequence[Executable]:
        (table,), e = self.tables, window.events.c
        latest = (
            select(*(e[name] for name in self.columns))
            .ext(distinct_on(e.app, e.ppnum))
            .where(e.ppnum != "")
            .order_by(e.app, e.ppnum, e.event_id.desc())
        )
        new = insert(table).from_select(list(self.columns), latest)
        values = {name: new.excluded[name] for name in self.columns[2:]}
        where = table.c.event_id < new.excluded.event_id
        return [new.on_conflict_do_update(index_elements=["app", "ppnum"], set_=values, where=where)]


class New(Old):
    """The same with a column more."""

    version: ClassVar[int] = 2
    tables: ClassVar[tuple[Table, ...]] = (a_table(Column("send_request_id", Text, comment="The request.")),)
    columns: ClassVar[tuple[str, ...]] = (*Old.columns, "send_request_id")


def folder(path: Path, *steps: str) -> Path:
    """An Alembic folder with a revision for each step."""
    (path / "versions").mkdir(parents=True)
    for number, step in enumerate(steps, start=1):
        source = REVISION.format(number=number, before=str(number - 1) if number > 1 else None, step=step)
        (path / "versions" / f"{number}.py").write_text(source)
    return path


async def expected(conn: AsyncConnection) -> list[tuple[str | None, ...]]:
    """The new version's rows, worked out from the log one by one."""
    latest = {
        (record.app, record.ppnum): (record.event_id, record.send_request_id)
        for record in sorted(await folding.logged(conn), key=lambda one: one.event_id)
        if record.event_type in Old.handles and record.ppnum
    }
    return sorted((*key, *value) for key, value in latest.items())


@pytest.mark.parametrize("has_folder", [True, False], ids=["by a revision", "by hand"])
async def test_a_new_column_with_old_and_new_code_side_by_side(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_folder: bool
) -> None:
    if has_folder:
        monkeypatch.setattr(Old, "migrations", folder(tmp_path / "old", MAKE))
        monkeypatch.setattr(New, "migrations", folder(tmp_path / "new", MAKE, ADD))
    old, new = Old(), New()
    async with store.connection(database_url, "looking") as conn:
        upgrade(database_url, projections=[old])
        await append(conn, *happenings())
        async with live_load(database_url, old) as load:
            # The migration, while the old code folds.
            if not has_folder:
                await conn.execute(BY_HAND)
            await asyncio.to_thread(upgrade, database_url, projections=[new])
            await load.goes_on()
            await asyncio.to_thread(require_current_schema, database_url, [old])

            # The new code waits; the old one keeps the rows fresh.
            waiting = worker(database_url, new)
            async with folding.running(database_url, waiting):
                await folding.in_state(conn, "outcomes", "waiting")
                await load.goes_on()
                await folding.folded(
                    conn, "outcomes", int(str(await store.value(conn, "SELECT max(position) FROM eventstore.events")))
                )
                assert (await stand(conn, "outcomes")).version == 1
                assert waiting.windows == 0

                # What will change: every row, none of which goes.
                shown = await rebuild(database_url, new, dry_run=True, rest=1000)
                (changes,) = shown.changes
                assert (changes.added, changes.removed) == (0, 0)
                assert changes.changed > 0
                assert (await stand(conn, "outcomes")).version == 1

                await rebuild(database_url, new, rest=1000)
                assert (await stand(conn, "outcomes")).version == 2

                # From now on the new code folds, under the same load; the old one leaves the rows alone.
                await load.goes_on()
                folded = waiting.windows

                async def goes_on() -> bool:
                    return waiting.windows > folded

                await store.until(goes_on, "the new code folding")
                await load.goes_on()

        late = worker(database_url, old)
        async with connected(late) as own:
            await append(conn, told())
            before = await stand(conn, "outcomes")
            assert await fold(late, own) is Step.STOPPED
            assert await stand(conn, "outcomes") == before
        for attempt in (rebuild(database_url, old), verify(database_url, old)):
            with pytest.raises(ProjectionsError, match="are of version 2, this code is version 1: update this inst"):
                await attempt
        await folding.fold_all(database_url, [New])
        assert (await verify(database_url, new)).equal
        assert (await every_row(conn, New))["outcomes"] == await expected(conn)
        assert rebuilding.total(await rebuild(database_url, new)) == 0
