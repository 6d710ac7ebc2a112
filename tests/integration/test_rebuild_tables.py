"""Whatever tables a projection has, and whatever depends on them, a rebuild changes only the rows that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from psycopg import AsyncConnection, errors, sql
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Computed,
    Executable,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from projections.errors import ProjectionsError
from projections.inspecting.explain import explain
from projections.migrating.migrate import upgrade
from projections.projection import Projection, Window
from projections.read_models.request_status import RequestStatus
from projections.rules import check_projection
from tests import folding, oracle, rebuilding, store
from tests.databases import Server
from tests.folding import append, new_record
from tests.migration.test_user_tables import alembic_folder
from tests.queries import fetch_all
from tests.rebuilding import During, rebuild, total_differences, verify


def outcomes(name: str, *more: Column[Any]) -> Table:
    """A person's last outcome."""
    key = (Column("app", Text, primary_key=True), Column("ppnum", Text, primary_key=True))
    return Table(name, MetaData(schema="public"), *key, Column("event_id", Text(collation="C"), nullable=False), *more)


class Outcomes(Projection):
    """The last delivery or failure of each person, with more of the event as columns."""

    name: ClassVar[str] = "outcomes"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED, oracle.FAILED})
    tables: ClassVar[tuple[Table, ...]] = (outcomes("outcomes"),)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def more(self, event: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        """Return the additional columns."""
        assert event
        return {}

    def fold(self, window: Window) -> Sequence[Executable]:
        (table,), e = self.tables, window.events.c
        columns = {"app": e.app, "ppnum": e.ppnum, "event_id": e.event_id, **self.more(dict(e))}
        latest = select(*columns.values()).ext(distinct_on(e.app, e.ppnum)).order_by(e.app, e.ppnum, e.event_id.desc())
        new = insert(table).from_select(list(columns), latest)
        set_ = {name: new.excluded[name] for name in columns if name not in ("app", "ppnum")}
        newer = table.c.event_id < new.excluded.event_id
        return [new.on_conflict_do_update(index_elements=["app", "ppnum"], set_=set_, where=newer)]


async def install_and_fold(url: str, projection: Projection) -> None:
    """Create the tables of a projection in the database of a test marked ``folded``, and fold the events into them."""
    upgrade(url, projections=[projection])
    await folding.fold_all(url, [type(projection)])


# Versions


class FewerTypes(Outcomes):
    version: ClassVar[int] = 2
    handles: ClassVar[frozenset[int]] = frozenset({oracle.FAILED})


@pytest.mark.newest
async def test_old_code_folds_a_type_that_new_code_does_not_handle(database_url: str, conn: AsyncConnection) -> None:
    upgrade(database_url, projections=[Outcomes()])
    await append(conn, failed := new_record(oracle.FAILED, "1"), new_record(oracle.FAILED, "2"))
    await folding.fold_all(database_url, [Outcomes])

    async def meanwhile() -> None:
        async with store.connection(database_url) as own:
            await append(own, new_record(oracle.DELIVERED, "1"))
        await folding.fold_all(database_url, [Outcomes])

    progress = During(applying_the_difference=meanwhile)
    done = await rebuild(database_url, FewerTypes(), progress=progress)
    assert progress.is_done
    assert (done.position, total_differences(done)) == (3, 1)
    assert (await verify(database_url, FewerTypes())).equal
    assert await store.value(conn, "SELECT event_id FROM outcomes WHERE ppnum = '1'") == failed.event_id


# Columns

LONG = "a_column_with_a_name_so_long_that_postgres_has_no_byte_to_spare"
assert len(LONG) == 63


class LongNames(Outcomes):
    tables: ClassVar[tuple[Table, ...]] = (outcomes("outcomes", Column(LONG, Text)),)

    def more(self, event: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        return {LONG: event["send_request_id"]}


ODD = '50% "of" :x (y)'


class OddNames(Outcomes):
    tables: ClassVar[tuple[Table, ...]] = (
        outcomes(
            'odd "%s" Täble:x',
            Column(ODD, Text),
            Column("Gen", Text, Computed("upper(ppnum)", persisted=True), unique=True),
        ),
    )

    def more(self, event: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        return {ODD: event["send_request_id"]}


@pytest.mark.folded
@pytest.mark.parametrize("projection", [LongNames(), OddNames()])
async def test_odd_column_names(database_url: str, conn: AsyncConnection, projection: Projection) -> None:
    await install_and_fold(database_url, projection)
    (table,) = projection.tables
    damage = sql.SQL("UPDATE {0} SET event_id = 'x' WHERE ctid IN (SELECT ctid FROM {0} LIMIT 2)")
    await conn.execute(damage.format(sql.Identifier("public", table.name)))
    found = await verify(database_url, projection)
    assert total_differences(found) == len(found.samples) == 2
    assert {one.old["event_id"] for one in found.samples if one.old} == {"x"}
    assert total_differences(await rebuild(database_url, projection, dry_run=True)) == 2
    assert total_differences(await rebuild(database_url, projection)) == 2
    assert (await verify(database_url, projection)).equal


class Numbered(Outcomes):
    tables: ClassVar[tuple[Table, ...]] = (outcomes("outcomes", Column("number", Integer)),)

    def more(self, event: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        return {"number": event["event_type"]}


class Widened(Numbered):
    tables: ClassVar[tuple[Table, ...]] = (outcomes("outcomes", Column("number", BigInteger)),)


@pytest.mark.folded
async def test_a_column_with_another_type_than_in_the_code_is_refused_before_folding(
    database_url: str, conn: AsyncConnection
) -> None:
    await install_and_fold(database_url, Numbered())
    await conn.execute("ALTER TABLE outcomes ALTER number TYPE bigint")
    message = "outcomes.number is bigint in the database and integer in the code; change one of them"
    for run in (rebuild, verify):
        progress = rebuilding.RecordedProgress()
        with pytest.raises(ProjectionsError, match=message):
            await run(database_url, Numbered(), progress=progress)
        assert progress.phases == []
    assert (await verify(database_url, Widened())).equal


@pytest.mark.folded
@pytest.mark.newest
async def test_a_role_without_temporary_tables_is_refused_before_folding(
    database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    await install_and_fold(database_url, Outcomes())
    name = sql.Identifier(conn.info.dbname)
    async with rebuilding.role(postgres, database_url) as owner:
        for whom in ("PUBLIC", "CURRENT_ROLE", conn.info.user):
            words = sql.SQL(whom) if whom.isupper() else sql.Identifier(whom)
            await owner.superuser.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM {}").format(name, words))
    with pytest.raises(ProjectionsError, match="GRANT TEMPORARY ON DATABASE"):
        await verify(database_url, Outcomes())


# Unique values


class Unique(Outcomes):
    tables: ClassVar[tuple[Table, ...]] = (
        outcomes("outcomes", Column("last", Text(collation="C"), unique=True), Column("number", Integer)),
    )

    def more(self, event: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        return {"last": event["event_id"], "number": event["event_type"]}


async def rotate_values(conn: AsyncConnection, table: str, column: str) -> None:
    """Rotate the values of the first three rows."""
    query = sql.SQL("SELECT ppnum, {} FROM {} ORDER BY ppnum LIMIT 3").format(
        sql.Identifier(column), sql.Identifier(table)
    )
    rows = await fetch_all(conn, query)
    update = sql.SQL("UPDATE {} SET {} = %s WHERE ppnum = %s").format(sql.Identifier(table), sql.Identifier(column))
    async with conn.transaction():
        for ppnum, _ in rows:
            await conn.execute(update, [f"away {ppnum}", ppnum])
        for (ppnum, _), (_, value) in zip(rows, [*rows[1:], rows[0]], strict=True):
            await conn.execute(update, [value, ppnum])


@pytest.mark.folded
@pytest.mark.parametrize("unique", ["(last)", "(lower(last))", "(last) WHERE last <> ''", "(last) NULLS NOT DISTINCT"])
@pytest.mark.parametrize(
    "projection",
    [Unique(), Outcomes()],
    ids=["constraint of the code", "constraint of the owner"],
)
async def test_rows_that_swapped_values_of_a_unique_column(
    database_url: str, conn: AsyncConnection, projection: Projection, unique: str
) -> None:
    column = "last" if "last" in projection.tables[0].c else "event_id"
    await install_and_fold(database_url, projection)
    await conn.execute(sql.SQL("CREATE UNIQUE INDEX ON outcomes " + unique.replace("last", column)))
    before = await rebuilding.all_rows(conn, projection)
    await rotate_values(conn, "outcomes", column)
    done = await rebuild(database_url, projection)
    assert [(one.added, one.removed, one.changed) for one in done.changes] == [(0, 0, 3)]
    assert await rebuilding.all_rows(conn, projection) == before


@pytest.mark.folded
async def test_rows_that_keep_their_unique_values_are_updated_in_place(
    database_url: str, conn: AsyncConnection
) -> None:
    await install_and_fold(database_url, Unique())
    await conn.execute(
        "CREATE TABLE public.notes (app text, ppnum text, note text,"
        " FOREIGN KEY (app, ppnum) REFERENCES public.outcomes ON DELETE CASCADE)"
    )
    await conn.execute("INSERT INTO public.notes SELECT app, ppnum, 'mine' FROM outcomes")
    notes = await folding.count_rows(conn, "notes")
    await conn.execute("UPDATE outcomes SET number = 99")
    await conn.execute("UPDATE outcomes SET last = 'wrong' WHERE ppnum = (SELECT min(ppnum) FROM outcomes)")
    assert total_differences(await rebuild(database_url, Unique())) == await folding.count_rows(conn, "outcomes")
    assert (await verify(database_url, Unique())).equal
    assert await folding.count_rows(conn, "notes") == notes


@pytest.mark.folded
async def test_an_exclusion_constraint_added_by_the_owner(database_url: str, conn: AsyncConnection) -> None:
    await install_and_fold(database_url, RequestStatus())
    await conn.execute("ALTER TABLE request_recipients ADD EXCLUDE USING btree (last_event_id WITH =)")
    await rotate_values(conn, "request_recipients", "last_event_id")
    assert total_differences(await rebuild(database_url, RequestStatus())) == 3
    assert (await verify(database_url, RequestStatus())).equal


# Tables of a projection that refer to each other


def family() -> tuple[Table, Table]:
    metadata = MetaData(schema="public")
    key = (Column("app", Text, primary_key=True), Column("send_request_id", Text, primary_key=True))
    parents = Table("parents", metadata, *key, Column("event_id", Text(collation="C"), nullable=False, unique=True))
    children = Table(
        "children",
        metadata,
        Column("app", Text, primary_key=True),
        Column("send_request_id", Text, primary_key=True),
        Column("ppnum", Text, primary_key=True),
        ForeignKeyConstraint(
            ["app", "send_request_id"], ["public.parents.app", "public.parents.send_request_id"], deferrable=True
        ),
    )
    return parents, children


class Family(Projection):
    name: ClassVar[str] = "family"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.DELIVERED, oracle.FAILED})
    tables: ClassVar[tuple[Table, ...]] = family()
    partition_by: ClassVar[tuple[str, ...]] = ("app", "send_request_id")

    def fold(self, window: Window) -> Sequence[Executable]:
        (parents, children), e = self.tables, window.events.c
        latest = select(e.app, e.send_request_id, e.event_id).ext(distinct_on(e.app, e.send_request_id))
        latest = latest.order_by(e.app, e.send_request_id, e.event_id.desc())
        new = insert(parents).from_select(["app", "send_request_id", "event_id"], latest)
        upsert = new.on_conflict_do_update(
            index_elements=["app", "send_request_id"],
            set_={"event_id": new.excluded.event_id},
            where=parents.c.event_id < new.excluded.event_id,
        )
        people = select(e.app, e.send_request_id, e.ppnum).distinct()
        rows = insert(children).from_select(["app", "send_request_id", "ppnum"], people)
        return [upsert, rows.on_conflict_do_nothing()]


class ChildrenFirst(Family):
    tables: ClassVar[tuple[Table, ...]] = Family.tables[::-1]

    def fold(self, window: Window) -> Sequence[Executable]:
        return Family().fold(window)


@pytest.mark.folded
@pytest.mark.parametrize("projection", [Family(), ChildrenFirst()], ids=["parents first", "children first"])
async def test_rows_that_other_rows_refer_to(database_url: str, conn: AsyncConnection, projection: Projection) -> None:
    await install_and_fold(database_url, projection)
    before = await rebuilding.all_rows(conn, projection)
    await conn.execute("UPDATE parents SET event_id = 'x' WHERE send_request_id = 'request 1'")
    await conn.execute("DELETE FROM children WHERE send_request_id = 'request 2'")
    await conn.execute("DELETE FROM parents WHERE send_request_id = 'request 2'")
    await conn.execute("INSERT INTO parents VALUES ('app', 'nobody''s', 'y')")
    await conn.execute("INSERT INTO children VALUES ('app', 'nobody''s', 'z')")
    await rebuild(database_url, projection)
    assert await rebuilding.all_rows(conn, projection) == before
    assert (await verify(database_url, projection)).equal
    with pytest.raises(errors.ForeignKeyViolation):
        await conn.execute("INSERT INTO children VALUES ('app', 'nobody''s', 'z')")


@pytest.mark.folded
@pytest.mark.newest
async def test_referenced_rows_that_swapped_unique_values(database_url: str, conn: AsyncConnection) -> None:
    await install_and_fold(database_url, Family())
    before = await rebuilding.all_rows(conn, Family())
    (one, its), (other, others) = await fetch_all(
        conn, "SELECT send_request_id, event_id FROM parents ORDER BY 1 LIMIT 2"
    )
    for request, value in ((one, "away"), (other, its), (one, others)):
        await conn.execute("UPDATE parents SET event_id = %s WHERE send_request_id = %s", [value, request])
    await rebuild(database_url, Family())
    assert await rebuilding.all_rows(conn, Family()) == before


# How tables are stored


def storage_projection(**options: Any) -> tuple[Table]:  # noqa: ANN401 - SQLAlchemy's parameters
    key = (Column("app", Text, primary_key=True), Column("ppnum", Text, primary_key=True))
    index = Index("outcomes_event_id", "app", "ppnum", "event_id", unique=True, postgresql_concurrently=True)
    columns = (Column("event_id", Text(collation="C"), nullable=False), index)
    return (Table("outcomes", MetaData(schema="public"), *key, *columns, **options),)


COLUMNS = 'app text, ppnum text, event_id text COLLATE "C" NOT NULL, PRIMARY KEY (app, ppnum)'
PLAIN = (f"CREATE TABLE public.outcomes ({COLUMNS})",)
PARTITIONED = (
    f"CREATE TABLE public.outcomes ({COLUMNS}) PARTITION BY HASH (ppnum)",
    "CREATE TABLE public.outcomes_0 PARTITION OF public.outcomes FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE public.outcomes_1 PARTITION OF public.outcomes FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
)


@pytest.mark.folded
@pytest.mark.parametrize(
    ("options", "statements"),
    [
        ({"postgresql_partition_by": "HASH (ppnum)"}, PARTITIONED),
        ({"postgresql_with": {"fillfactor": 70}, "postgresql_tablespace": "pg_default"}, PLAIN),
        ({"postgresql_using": "heap"}, PLAIN),
    ],
    ids=["partitions", "storage parameters", "access method"],
)
async def test_tables_with_other_storage_are_rebuilt(
    database_url: str, conn: AsyncConnection, tmp_path: Path, options: dict[str, object], statements: tuple[str, ...]
) -> None:
    class Stored(Outcomes):
        tables: ClassVar[tuple[Table, ...]] = storage_projection(**options)
        migrations: ClassVar[Path | None] = alembic_folder(tmp_path, f"[op.execute(one) for one in {statements!r}]")

    projection = Stored()
    check_projection(projection)
    await install_and_fold(database_url, projection)
    assert (await verify(database_url, projection)).equal
    before = await rebuilding.all_rows(conn, projection)
    await conn.execute("UPDATE outcomes SET event_id = 'x' WHERE ppnum = (SELECT min(ppnum) FROM outcomes)")
    await conn.execute("DELETE FROM outcomes WHERE ppnum = (SELECT max(ppnum) FROM outcomes)")
    await rebuild(database_url, projection)
    assert await rebuilding.all_rows(conn, projection) == before
    key = [str(before["outcomes"][0][1])]
    context = rebuilding.replay_context(database_url)
    found = await explain(context, projection, projection.tables[0], key, None)
    assert found.equal
