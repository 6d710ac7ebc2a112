"""Each kind of role may do what it needs and nothing else, tried with SQL as each of them, as an attacker would."""

from __future__ import annotations

import pytest
from psycopg import AsyncConnection, errors, sql

from projections.granting.database_layout import dangerous_privileges, find_permitted, read_layout
from projections.granting.grant_roles import RoleRequest, kind_privileges
from projections.granting.role_kinds import TABLES, RoleKind
from projections.migrating.metadata import target_metadata
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from tests import folding, rebuilding, store
from tests.databases import Server
from tests.erasing import erase
from tests.rebuilding import Interrupted, Interrupting, RecordedProgress, rebuild, role
from tests.roles import BUILT_IN, grant_to, granted_roles, review

READER, WORKER, INGEST, SERVE, CONSUMER = RoleKind
ALL: tuple[RoleKind, ...] = tuple(RoleKind)
NOBODY: tuple[RoleKind, ...] = ()

EVENT = (
    "(event_id, position, app, contract, event_type, occurred_at, received_at, payload)"
    " VALUES ('01KE57A22WAXDSJX6FXBCFS5DG', 99, 'a', 'chat.external', 1, now(), now(), '')"
)
ATTEMPTS: dict[str, tuple[RoleKind, ...]] = {
    # Reading
    "SELECT payload FROM eventstore.events": (WORKER, INGEST, SERVE, CONSUMER),
    "SELECT payload FROM eventstore.event_log": NOBODY,
    "SELECT payload FROM eventstore.quarantine": (INGEST,),
    "SELECT reason, event_id FROM eventstore.quarantine": (WORKER, INGEST),
    "SELECT * FROM eventstore.cursors": (WORKER, INGEST),
    "SELECT * FROM eventstore.consumers": (WORKER, INGEST, CONSUMER),
    "SELECT * FROM projections.checkpoints": (WORKER, INGEST),
    "SELECT * FROM projections.rebuilds": (WORKER, INGEST),
    "SELECT * FROM projections_shadow.shadow_positions": (WORKER,),
    "SELECT * FROM public.request_status": (READER, WORKER),
    "SELECT * FROM public.poll_results": (READER,),
    "SELECT * FROM public.consent_history": (READER,),
    "SELECT * FROM public.read_model_freshness": (READER, WORKER, INGEST),
    "SELECT * FROM eventstore.times_of_positions('{1}')": NOBODY,
    # Events
    f"INSERT INTO eventstore.events {EVENT}": (INGEST,),
    "UPDATE eventstore.events SET app = 'other'": NOBODY,
    "DELETE FROM eventstore.events": NOBODY,
    "TRUNCATE eventstore.events": NOBODY,
    "SELECT eventstore.redecode('[]')": NOBODY,
    "SELECT eventstore.refuse_change()": NOBODY,
    "INSERT INTO eventstore.change_permits VALUES (1, 'redecode')": NOBODY,
    "DROP TRIGGER refuse_change_row ON eventstore.events": NOBODY,
    "ALTER TABLE eventstore.events DISABLE TRIGGER ALL": NOBODY,
    "CREATE RULE hide AS ON INSERT TO eventstore.events DO INSTEAD NOTHING": NOBODY,
    "SET session_replication_role = replica": NOBODY,
    "LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE": NOBODY,
    # Views have their owner's rights
    "INSERT INTO public.consent_history (ppnum, event_id) VALUES ('b', 'c')": NOBODY,
    "DELETE FROM public.consent_history": NOBODY,
    # Ingest's tables
    "INSERT INTO eventstore.cursors (app) VALUES ('a')": (INGEST,),
    "DELETE FROM eventstore.cursors": (INGEST,),
    "DELETE FROM eventstore.quarantine": (INGEST,),
    "UPDATE eventstore.quarantine_counts SET messages = 0": (INGEST,),
    # A consumer's table
    "INSERT INTO eventstore.consumers (name, position, created_at) VALUES ('a', 0, now())": (CONSUMER,),
    "UPDATE eventstore.consumers SET position = 0": (CONSUMER,),
    "DELETE FROM eventstore.consumers": (CONSUMER,),
    "TRUNCATE eventstore.consumers": NOBODY,
    # A worker's tables
    "UPDATE projections.checkpoints SET position = 0": (WORKER,),
    "DELETE FROM projections.checkpoints": NOBODY,
    "DELETE FROM projections.skips": (WORKER,),
    "DELETE FROM projections.rebuilds": NOBODY,
    "SELECT nextval('projections.rebuilds_id_seq')": (WORKER,),
    "SELECT setval('projections.rebuilds_id_seq', 1)": NOBODY,
    "INSERT INTO public.poll_tallies VALUES ('a', 'b', 'c', 'd', 1, now())": (WORKER,),
    "TRUNCATE public.poll_tallies": NOBODY,
    "SELECT projections.drop_shadow_tables('{}')": (WORKER,),
    # Objects
    "CREATE TABLE projections_shadow.mine (a int)": (WORKER,),
    "DROP TABLE projections_shadow.shadow_positions": NOBODY,
    "CREATE TRIGGER t BEFORE INSERT ON projections_shadow.shadow_positions EXECUTE FUNCTION"
    " suppress_redundant_updates_trigger()": NOBODY,
    "CREATE TABLE public.mine (a int)": NOBODY,
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'": NOBODY,
    "CREATE TABLE eventstore.mine (a int)": NOBODY,
    "CREATE TABLE projections.mine (a int)": NOBODY,
    "CREATE SCHEMA mine": NOBODY,
    "CREATE TRIGGER t BEFORE UPDATE ON public.poll_tallies"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()": NOBODY,
    "ALTER TABLE public.poll_tallies ADD COLUMN mine int": NOBODY,
    "DROP VIEW public.poll_results": NOBODY,
    # What the engine records
    "UPDATE projections.alembic_version SET version_num = '0001'": NOBODY,
    "INSERT INTO projections.granted_roles VALUES ('mine', 'worker', now())": NOBODY,
    "SELECT pg_read_file('PG_VERSION')": NOBODY,
    "COPY public.poll_tallies TO PROGRAM 'cat'": NOBODY,
    "LISTEN eventstore": ALL,
    "NOTIFY eventstore": ALL,
}


async def test_each_kind_may_do_what_it_needs_and_nothing_else(postgres: Server, database_url: str) -> None:
    async with granted_roles(postgres, database_url, *RoleKind) as roles:
        wrong = []
        for kind, one in roles.items():
            async with store.connection(one.url, "trying") as conn:
                for statement, allowed in ATTEMPTS.items():
                    if await _may(conn, statement) != (kind in allowed):
                        wrong.append(f"{kind}: {statement}")
                assert not await _may(conn, sql.SQL("SET ROLE {}").format(sql.Identifier(postgres.owner)))
        assert wrong == []


async def _may(conn: AsyncConnection, statement: str | sql.Composed) -> bool:
    """Return whether a statement is permitted; it may fail for other reasons. Nothing of it stays."""
    try:
        async with conn.transaction(force_rollback=True):
            await conn.execute(statement.encode() if isinstance(statement, str) else statement)
    except errors.InsufficientPrivilege:
        return False
    except errors.CheckViolation:
        return True
    return True


async def test_what_roles_may_do_is_exactly_what_their_kind_includes(postgres: Server, database_url: str) -> None:
    """Of all privileges on everything in our schemas, whatever way a role may have come to them."""
    async with granted_roles(postgres, database_url, *RoleKind) as roles:
        with sqlalchemy_connection(database_url) as connection:
            layout = read_layout(connection)
            for kind, one in roles.items():
                needed = set(kind_privileges(layout, kind, BUILT_IN))
                assert find_permitted(connection, layout, one.name, list(needed)) == needed
                possible = dangerous_privileges(layout, one.name)
                beyond = find_permitted(connection, layout, one.name, possible) - needed
                # Everybody may use public, where nothing is granted to ingest, serve and consumers but what they need.
                assert {str(each) for each in beyond} <= {"USAGE on schema public"}
        assert [(each.missing, each.beyond) for each in review(database_url)] == [((), ())] * len(RoleKind)


def test_every_table_of_ours_was_considered() -> None:
    """A new table is granted to nobody until a line of ``TABLES`` says to whom."""
    granted = {table for tables in TABLES.values() for table in tables}
    tables = {table.fullname for metadata in target_metadata for table in metadata.tables.values()}
    # A trigger with its owner's rights writes event_ids, and the view event_positions shows it.
    of_trigger = {"eventstore.event_ids", "eventstore.event_ids_up_to"}
    not_granted = {"eventstore.change_permits", *of_trigger, "projections.views"}
    # Workers see the columns of the quarantine without its payloads, and readers whatever is in public.
    assert {name for name in tables if not name.startswith("public.")} - granted == not_granted


@pytest.mark.folded
async def test_shadows_of_another_role_are_dropped_and_never_written(postgres: Server, database_url: str) -> None:
    """A trigger on a worker's table would run with the rights of whoever continues the rebuild."""
    async with granted_roles(postgres, database_url, WORKER) as roles, store.connection(database_url) as conn:
        worker = roles[WORKER]
        for first, second in ((worker.url, database_url), (database_url, worker.url)):
            with pytest.raises(Interrupted):
                await rebuild(first, BUILT_IN[0], progress=Interrupting(2), window=2)
            assert await rebuilding.shadow_tables(conn) != []
            progress = RecordedProgress()
            await rebuild(second, BUILT_IN[0], progress=progress, resume=True)
            assert progress.notes == [f"{BUILT_IN[0].name}: the shadow belongs to another role; starting over"]
            assert await rebuilding.shadow_tables(conn) == []
        with pytest.raises(Interrupted):
            await rebuild(worker.url, BUILT_IN[0], progress=Interrupting(2), window=2)
        await erase(database_url, "12300000000")
        assert await rebuilding.shadow_tables(conn) == []
        await folding.assert_rows_match_oracle(conn)
        # The function by which a worker drops the owner's shadows drops nothing else.
        async with store.connection(worker.url) as as_worker:
            await as_worker.execute("SELECT projections.drop_shadow_tables('{shadow_positions}')")
        assert await store.value(conn, "SELECT to_regclass('projections_shadow.shadow_positions') IS NOT NULL")


async def test_a_role_may_be_several_kinds(postgres: Server, database_url: str) -> None:
    async with role(postgres, database_url) as one:
        grant_to(database_url, *(RoleRequest(one.name, kind) for kind in (WORKER, INGEST)))
        async with store.connection(one.url) as conn:
            for statement, allowed in ATTEMPTS.items():
                assert await _may(conn, statement) == (WORKER in allowed or INGEST in allowed), statement
