"""Grant and revoke: what they refuse, that both can be repeated, tables to come, and what others granted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from projections.errors import GrantRefused, MigrationRefused, RoleMayNot
from projections.granting.grant_roles import RoleRequest, plan_grants
from projections.granting.role_kinds import RoleKind
from projections.migrating.migrate import upgrade
from projections.migrating.schema_revision import require_current_schema
from projections.migrating.sqlalchemy_connection import one_session, sqlalchemy_connection
from tests import folding, rebuilding, store
from tests.databases import Server
from tests.folding import Watched
from tests.queries import fetch_all
from tests.rebuilding import OptOuts, role
from tests.roles import BUILT_IN, grant_to, granted_roles, review, revoke_from

READER, WORKER, INGEST, SERVE, _ = RoleKind

# Everything that was granted to roles of tests, by whomever.
_GRANTS = """
SELECT kind, name, grantee::regrole::text, privilege_type FROM (
    SELECT 'relation', relname, x.* FROM pg_class, aclexplode(relacl) AS x
    WHERE relnamespace::regnamespace::text IN ('eventstore', 'projections', 'projections_shadow', 'public')
    UNION ALL SELECT 'schema', nspname, x.* FROM pg_namespace, aclexplode(nspacl) AS x
    UNION ALL SELECT 'column', attname, x.* FROM pg_attribute, aclexplode(attacl) AS x
    UNION ALL SELECT 'function', proname, x.* FROM pg_proc, aclexplode(proacl) AS x WHERE pronamespace > 16384
    UNION ALL SELECT 'default', '', x.* FROM pg_default_acl, aclexplode(defaclacl) AS x
    UNION ALL SELECT 'database', '', x.* FROM pg_database, aclexplode(datacl) AS x WHERE datname = current_database()
) AS held (kind, name, grantor, grantee, privilege_type, is_grantable)
"""


@pytest.fixture(autouse=True)
async def _one_session(database_url: str) -> AsyncIterator[None]:
    """Grants, revokes and reviews of a test are made in one session: to open one takes longer than most of them."""
    with one_session(database_url):
        yield


async def grants_in(conn: AsyncConnection, name: str) -> list[tuple[str, ...]]:
    """Return every privilege that a role was granted."""
    return sorted(row for row in await fetch_all(conn, _GRANTS) if row[2] == name)


async def records_in(conn: AsyncConnection) -> list[tuple[str, str]]:
    return await fetch_all(conn, "SELECT role, kind FROM projections.granted_roles ORDER BY role, kind")


async def test_a_grant_can_be_repeated_and_a_revoke_takes_exactly_it_away(
    postgres: Server, database_url: str, conn: AsyncConnection
) -> None:
    async with role(postgres, database_url) as one, role(postgres, database_url) as other:
        await one.grant("SELECT ON pg_catalog.pg_authid")  # by the superuser, on something that isn't ours
        await other.superuser.execute(
            sql.SQL("GRANT SELECT ON public.poll_tallies TO {}; GRANT REFERENCES ON public.poll_tallies TO {}").format(
                sql.Identifier(other.name), sql.Identifier(one.name)
            )
        )
        before = await grants_in(conn, one.name)
        for kind in RoleKind:
            grant_to(database_url, RoleRequest(one.name, kind))
            granted = await grants_in(conn, one.name)
            assert len(granted) > len(before)
            grant_to(database_url, RoleRequest(one.name, kind))
            assert await grants_in(conn, one.name) == granted
            assert await records_in(conn) == [(one.name, kind)]
            revoke_from(database_url, RoleRequest(one.name, kind))
            assert await grants_in(conn, one.name) == before
            assert await records_in(conn) == []
            assert revoke_from(database_url, RoleRequest(one.name, kind))[0].statements == ()
        assert len(await grants_in(conn, other.name)) == 1  # nobody asked to change it


async def test_a_revoke_keeps_what_another_kind_of_the_role_needs(
    postgres: Server, database_url: str, conn: AsyncConnection
) -> None:
    async with role(postgres, database_url) as one:
        for kind in RoleKind:
            grant_to(database_url, RoleRequest(one.name, kind))
        for number, kind in enumerate(RoleKind, 1):
            revoke_from(database_url, RoleRequest(one.name, kind))
            for found in review(database_url):
                assert found.kinds == tuple(sorted(tuple(RoleKind)[number:]))
                assert (found.missing, found.beyond) == ((), ())
        assert await grants_in(conn, one.name) == []


async def test_the_statements_of_a_dry_run_do_the_same_in_the_owners_hands(
    postgres: Server, database_url: str, conn: AsyncConnection
) -> None:
    async with role(postgres, database_url) as one, role(postgres, database_url) as other:
        requests = [RoleRequest(one.name, kind) for kind in RoleKind]
        with sqlalchemy_connection(database_url) as connection:
            plans = plan_grants(connection, requests, BUILT_IN)
        assert await grants_in(conn, one.name) == []  # a plan changes nothing
        async with conn.transaction():
            for plan in plans:
                for statement in (*plan.preparation, *plan.statements):
                    await conn.execute(statement.encode())
        grant_to(database_url, *(RoleRequest(other.name, kind) for kind in RoleKind))
        by_hand, by_grant = await grants_in(conn, one.name), await grants_in(conn, other.name)
        assert [(*each[:2], each[3]) for each in by_hand] == [(*each[:2], each[3]) for each in by_grant]


async def test_tables_to_come_are_granted_and_what_the_owner_took_away_stays_away(
    postgres: Server, database_url: str
) -> None:
    async with (
        granted_roles(postgres, database_url, *RoleKind) as roles,
        store.connection(database_url) as owner,
        store.connection(roles[WORKER].url) as worker,
        store.connection(roles[READER].url) as reader,
    ):
        name = sql.Identifier(roles[READER].name)
        await owner.execute(sql.SQL("REVOKE SELECT ON public.poll_responses FROM {}").format(name))
        await owner.execute("CREATE VIEW public.answers AS SELECT app FROM public.poll_responses")
        upgrade(database_url, projections=[*BUILT_IN, OptOuts()])
        await folding.append_in_new_session(roles[INGEST].url, *rebuilding.sample_records())
        await folding.fold_all(roles[WORKER].url, [*map(type, BUILT_IN), OptOuts])
        await rebuilding.rebuild(roles[WORKER].url, OptOuts())
        upgrade(database_url, projections=[*BUILT_IN, OptOuts()])
        await reader.execute("SELECT * FROM public.opt_outs")
        await reader.execute("SELECT * FROM public.answers")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await reader.execute("SELECT * FROM public.poll_responses")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await reader.execute("DELETE FROM public.opt_outs")
        # A view has its owner's rights, so no worker may change anything through it.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await worker.execute("DELETE FROM public.answers")
        await folding.assert_rows_match_oracle(owner)
        (missing,) = [each for each in review(database_url) if READER in each.kinds]
        assert [str(each) for each in missing.missing] == ["SELECT on public.poll_responses"]


async def test_a_migration_leaves_out_roles_that_no_longer_exist(postgres: Server, database_url: str) -> None:
    async with granted_roles(postgres, database_url, READER, WORKER) as roles:
        gone = roles[READER]
        await gone.superuser.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(gone.name)))
        upgrade(database_url, projections=[*BUILT_IN, Watched()])
        found = {each.role: each.exists for each in review(database_url)}
        assert found == {gone.name: False, roles[WORKER].name: True}
        await gone.superuser.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(gone.name)))
        revoke_from(database_url, RoleRequest(gone.name, READER))
        assert [each.role for each in review(database_url)] == [roles[WORKER].name]


async def test_privileges_that_came_another_way_are_found(postgres: Server, database_url: str) -> None:
    async with granted_roles(postgres, database_url, READER) as roles, store.connection(database_url) as owner:
        one = roles[READER]
        await owner.execute("GRANT USAGE ON SCHEMA eventstore TO PUBLIC")
        await owner.execute("GRANT SELECT ON eventstore.events TO PUBLIC")
        await owner.execute(sql.SQL("GRANT DELETE ON public.poll_tallies TO {}").format(sql.Identifier(one.name)))
        await owner.execute(sql.SQL("REVOKE SELECT ON public.poll_tallies FROM {}").format(sql.Identifier(one.name)))
        everybody, reader = sorted(review(database_url), key=lambda each: each.role == one.name)
        assert (everybody.role, everybody.kinds) == ("public", ())
        assert [str(each) for each in reader.missing] == ["SELECT on public.poll_tallies"]
        assert [str(each) for each in reader.beyond] == [
            "USAGE on schema eventstore",
            "SELECT on eventstore.events",
            "DELETE on public.poll_tallies",
        ]


async def test_what_can_not_be_granted_is_refused_in_one_sentence(postgres: Server, database_url: str) -> None:
    superuser = psycopg.conninfo.conninfo_to_dict(postgres.superuser_url)["user"]
    async with granted_roles(postgres, database_url, WORKER) as roles:
        for name, words in {
            "absent": r"role absent does not exist; create it first: CREATE ROLE \"absent\" LOGIN PASSWORD",
            "public": "public is everybody",
            str(superuser): "is a superuser",
            postgres.owner: "may do everything already",
        }.items():
            with pytest.raises(GrantRefused, match=words):
                grant_to(database_url, RoleRequest(name, READER))
        with pytest.raises(GrantRefused, match="role absent does not exist, and nothing was granted to it"):
            revoke_from(database_url, RoleRequest("absent", READER))
        worker = roles[WORKER]
        for call in (grant_to, revoke_from):
            with pytest.raises(
                GrantRefused, match=f"the schema belongs to role {postgres.owner}; connect as that role"
            ):
                call(worker.url, RoleRequest(worker.name, INGEST))
        with pytest.raises(MigrationRefused, match=f"schema projections belongs to role {postgres.owner}"):
            upgrade(worker.url, projections=())
        assert [each.kinds for each in review(database_url)] == [(WORKER,)]


async def test_a_reader_gets_one_sentence_from_every_command(postgres: Server, database_url: str) -> None:
    async with granted_roles(postgres, database_url, READER) as roles:
        one = roles[READER]
        with pytest.raises(RoleMayNot) as raised:
            require_current_schema(one.url)
        assert str(raised.value) == (
            f"role {one.name} may not run this command, because it may not use schema projections; connect as its owner"
            f" {postgres.owner}, or as a role that projections grant made a worker, an ingest, a serve or a consumer"
            " role"
        )


async def test_a_database_that_belongs_to_somebody_else(
    postgres: Server, database_url: str, conn: AsyncConnection
) -> None:
    """The owner of the schema can't grant CONNECT; what everybody has need not be granted."""
    async with role(postgres, database_url) as one:
        with taken_away(postgres, database_url) as database:
            with pytest.raises(GrantRefused, match=r"may not create schemas .* run: CREATE SCHEMA .projections_shadow"):
                grant_to(database_url, RoleRequest(one.name, WORKER))
            owner = sql.Identifier(postgres.owner)
            await one.superuser.execute(sql.SQL("CREATE SCHEMA projections_shadow AUTHORIZATION {}").format(owner))
            grant_to(database_url, RoleRequest(one.name, WORKER))
            assert ("database", "", one.name, "CONNECT") not in await grants_in(conn, one.name)
            await one.superuser.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
            with pytest.raises(GrantRefused, match=r"lacks TEMPORARY on .*, which only \w+ can grant: GRANT TEMPORARY"):
                grant_to(database_url, RoleRequest(one.name, WORKER))


@contextmanager
def taken_away(postgres: Server, url: str) -> Iterator[sql.Identifier]:
    """Give a test's database to the superuser during the block; yields its name."""
    superuser = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(postgres.superuser_url)["user"]))
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))
    postgres.execute("ALTER DATABASE {} OWNER TO {}", name, superuser)
    try:
        yield name
    finally:
        postgres.execute("ALTER DATABASE {} OWNER TO {}", name, sql.Identifier(postgres.owner))


async def test_the_schema_of_shadows_must_be_the_owners(postgres: Server, database_url: str) -> None:
    async with role(postgres, database_url) as one:
        await one.superuser.execute(
            sql.SQL("CREATE SCHEMA projections_shadow AUTHORIZATION {}").format(sql.Identifier(one.name))
        )
        with pytest.raises(GrantRefused, match=f"belongs to role {one.name}, not to {postgres.owner}"):
            grant_to(database_url, RoleRequest(one.name, WORKER))


async def test_names_are_quoted(postgres: Server, database_url: str) -> None:
    async with role(postgres, database_url) as one:
        odd = f'{one.name} 100% "odd"; --'
        await one.superuser.execute(
            sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(one.name), sql.Identifier(odd))
        )
        try:
            grant_to(database_url, *(RoleRequest(odd, kind) for kind in RoleKind))
            assert [(each.role, each.missing, each.beyond) for each in review(database_url)] == [(odd, (), ())]
            revoke_from(database_url, *(RoleRequest(odd, kind) for kind in RoleKind))
            assert review(database_url) == []
            assert await fetch_all(one.superuser, "SELECT FROM projections.granted_roles") == []
        finally:
            await one.superuser.execute(
                sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(odd), sql.Identifier(one.name))
            )
