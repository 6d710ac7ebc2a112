"""A new column by migration and rebuild, with old and new code side by side, as in docs/writing-a-projection.md."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from psycopg import AsyncConnection
from sqlalchemy import Boolean, Column, Executable, MetaData, Table, Text, exists, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert

from projections.errors import ProjectionsError
from projections.migrating.migrate import upgrade
from projections.migrating.schema_revision import require_current_schema
from projections.projection import Projection, Window
from projections.running.window_step import Step
from tests import folding, oracle, rebuilding, store
from tests.folding import append, checkpoint_row, fold, new_record, worker, worker_connection
from tests.rebuilding import all_rows, live_load, rebuild, sample_records, verify

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


def make_table(*more: Column[str]) -> Table:
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
    tables: ClassVar[tuple[Table, ...]] = (make_table(),)
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
    """Has one more column."""

    version: ClassVar[int] = 2
    tables: ClassVar[tuple[Table, ...]] = (make_table(Column("send_request_id", Text, comment="The request.")),)
    columns: ClassVar[tuple[str, ...]] = (*Old.columns, "send_request_id")


def folder(path: Path, *steps: str) -> Path:
    """An Alembic folder with a revision for each step."""
    (path / "versions").mkdir(parents=True)
    for number, step in enumerate(steps, start=1):
        source = REVISION.format(number=number, before=str(number - 1) if number > 1 else None, step=step)
        (path / "versions" / f"{number}.py").write_text(source)
    return path


async def expected(conn: AsyncConnection) -> list[tuple[str | None, ...]]:
    """Return the new version's rows, computed from the log event by event."""
    latest = {
        (record.app, record.ppnum): (record.event_id, record.send_request_id)
        for record in sorted(await folding.stored_records(conn), key=lambda one: one.event_id)
        if record.event_type in Old.handles and record.ppnum
    }
    return sorted((*key, *value) for key, value in latest.items())


@pytest.mark.parametrize(
    "has_folder", [pytest.param(True, marks=pytest.mark.oldest), False], ids=["by a revision", "by hand"]
)
async def test_a_new_column_with_old_and_new_code_side_by_side(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_folder: bool
) -> None:
    if has_folder:
        monkeypatch.setattr(Old, "migrations", folder(tmp_path / "old", MAKE))
        monkeypatch.setattr(New, "migrations", folder(tmp_path / "new", MAKE, ADD))
    old, new = Old(), New()
    async with store.connection(database_url, "reading") as conn:
        upgrade(database_url, projections=[old])
        await append(conn, *sample_records())
        async with live_load(database_url, old) as load:
            # The migration, while the old code folds.
            if not has_folder:
                await conn.execute(BY_HAND)
            await asyncio.to_thread(upgrade, database_url, projections=[new])
            await load.wait_for_batches()
            await asyncio.to_thread(require_current_schema, database_url, [old])

            # The new code waits; the old code keeps the rows up to date.
            waiting = worker(database_url, new)
            async with folding.running_workers(database_url, waiting):
                await folding.wait_for_state(conn, "outcomes", "waiting")
                await load.wait_for_batches()
                await folding.wait_until_folded(
                    conn, "outcomes", int(str(await store.value(conn, "SELECT max(position) FROM eventstore.events")))
                )
                assert (await checkpoint_row(conn, "outcomes")).version == 1
                assert waiting.windows == 0

                # The rebuild changes every row and removes none.
                shown = await rebuild(database_url, new, dry_run=True, rest=1000)
                (changes,) = shown.changes
                assert (changes.added, changes.removed) == (0, 0)
                assert changes.changed > 0
                assert (await checkpoint_row(conn, "outcomes")).version == 1

                await rebuild(database_url, new, rest=1000)
                assert (await checkpoint_row(conn, "outcomes")).version == 2

                # Now the new code folds, under the same load; the old code leaves the rows unchanged.
                await load.wait_for_batches()
                folded = waiting.windows

                async def continues() -> bool:
                    return waiting.windows > folded

                await store.wait_until(continues, "the new code folding")
                await load.wait_for_batches()

        late = worker(database_url, old)
        async with worker_connection(late) as own:
            await append(conn, new_record())
            before = await checkpoint_row(conn, "outcomes")
            assert await fold(late, own) is Step.STOPPED
            assert await checkpoint_row(conn, "outcomes") == before
        for attempt in (rebuild(database_url, old), verify(database_url, old)):
            with pytest.raises(ProjectionsError, match="are of version 2, this code is version 1; upgrade this inst"):
                await attempt
        await folding.fold_all(database_url, [New])
        assert (await verify(database_url, new)).equal
        assert (await all_rows(conn, New))["outcomes"] == await expected(conn)
        assert rebuilding.total_differences(await rebuild(database_url, new)) == 0


# Other differences between old and new code

recipients = Table(
    "recipients",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True),
    Column("send_request_id", Text, primary_key=True),
    Column("ppnum", Text, primary_key=True),
    Column("done", Boolean, nullable=False, server_default="false"),
)


class ByRequest(Projection):
    """The end of a request ends its recipients, too."""

    name: ClassVar[str] = "recipients"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED, oracle.COMPLETED})
    tables: ClassVar[tuple[Table, ...]] = (recipients,)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "send_request_id")

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.only(oracle.DELIVERED).c
        rows = select(e.app, e.send_request_id, e.ppnum).distinct()
        new = insert(recipients).from_select(["app", "send_request_id", "ppnum"], rows).on_conflict_do_nothing()
        ended = window.only(oracle.COMPLETED)
        same = (recipients.c.app == ended.c.app, recipients.c.send_request_id == ended.c.send_request_id)
        return [new, update(recipients).values(done=True).where(exists(literal(1)).select_from(ended).where(*same))]


class ByRecipient(ByRequest):
    """Ignores the ends of requests, so each recipient is a partition."""

    version: ClassVar[int] = 2
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED})
    partition_by: ClassVar[tuple[str, ...]] = ("app", "send_request_id", "ppnum")

    def fold(self, window: Window) -> Sequence[Executable]:
        return super().fold(window)[:1]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("phase", [pytest.param("comparing", marks=pytest.mark.oldest), "applying_the_difference"])
async def test_old_code_folds_meanwhile_in_partitions_that_the_new_code_does_not_have(
    database_url: str, conn: AsyncConnection, phase: str, dry_run: bool
) -> None:
    await folding.create_tables_of(conn, ByRequest)
    await append(conn, new_record(), new_record(ppnum="12300000002"))
    await folding.fold_all(database_url, [ByRequest])

    async def more() -> None:
        await folding.append_in_new_session(database_url, new_record(oracle.COMPLETED, None))
        await folding.fold_all(database_url, [ByRequest])

    progress = rebuilding.During(**{"counting" if dry_run and phase != "comparing" else phase: more})
    done = await rebuild(database_url, ByRecipient(), progress=progress, dry_run=dry_run)
    assert progress.is_done
    assert [(one.added, one.removed, one.changed) for one in done.changes] == [(0, 0, 2)]
    if not dry_run:
        assert {row[-1] for row in (await all_rows(conn, ByRecipient))["recipients"]} == {False}
        assert (await verify(database_url, ByRecipient())).equal


async def test_old_code_verifies_its_rows_while_newer_code_waits(database_url: str, conn: AsyncConnection) -> None:
    await folding.create_tables_of(conn, Old)
    await append(conn, *sample_records())
    await folding.fold_all(database_url, [Old])
    newer = worker(database_url, New())
    async with worker_connection(newer) as own:
        assert await fold(newer, own) is Step.STOPPED
    assert (await checkpoint_row(conn, "outcomes")).state == "waiting"
    assert (await verify(database_url, Old())).equal
    assert rebuilding.total_differences(await rebuild(database_url, Old())) == 0


another = Table("another", MetaData(schema="public"), Column("app", Text, primary_key=True), Column("ppnum", Text))


class NewWithAnother(Old):
    """Has one more table."""

    version: ClassVar[int] = 2
    tables: ClassVar[tuple[Table, ...]] = (*Old.tables, another)


async def test_old_code_continues_while_a_table_is_created_that_only_newer_code_has(
    database_url: str, conn: AsyncConnection
) -> None:
    upgrade(database_url, projections=[Old()])
    await append(conn, *sample_records())
    await folding.fold_all(database_url, [Old])
    await asyncio.to_thread(upgrade, database_url, projections=[NewWithAnother()])
    now = await checkpoint_row(conn, "outcomes")
    assert (now.state, now.version) == ("running", 1)
    await append(conn, new_record())
    await folding.fold_all(database_url, [Old])
    assert (await verify(database_url, Old())).equal
