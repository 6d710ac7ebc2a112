"""``projections grant`` and ``revoke`` as their users see them: what they print, JSON, and exit codes."""

from __future__ import annotations

import json
import re

import psycopg

from projections.granting.role_kinds import RoleKind
from tests.acceptance.command import Commands
from tests.databases import Server
from tests.json_documents import read_documents
from tests.rebuilding import role
from tests.roles import review

READER, WORKER, INGEST, SERVE, _ = RoleKind
NAME_ONE = "name at least one role: --reader ROLE, --worker ROLE, --ingest ROLE, --serve ROLE or --consumer ROLE"


async def test_grant_dry_run_show_and_revoke(commands: Commands, postgres: Server, database_url: str) -> None:
    variables = {"DATABASE_URL": database_url, "COLUMNS": "200"}
    async with role(postgres, database_url) as bi, role(postgres, database_url) as app:
        options = ("--reader", bi.name, "--worker", app.name, "--ingest", app.name)
        planned = await commands.run("grant", *options, "--dry-run", **variables)
        assert (planned.code, planned.err) == (0, "")
        lines = planned.out.splitlines()
        assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
        assert all(line.endswith(";") for line in lines)
        assert review(database_url) == []

        with psycopg.connect(database_url, autocommit=True) as owner:  # whoever runs the script gets the same
            owner.execute(planned.out.encode())
        assert {one.role: one.kinds for one in review(database_url)} == {bi.name: (READER,), app.name: (INGEST, WORKER)}
        assert [(one.missing, one.beyond) for one in review(database_url)] == [((), ())] * 2

        result = await commands.run("grant", *options, **variables)
        assert (result.code, result.out) == (0, "")
        assert result.err.splitlines() == [
            f"role {bi.name} is now a reader",
            f"role {app.name} is now an ingest role and a worker",
        ]
        findings = json.loads((await commands.run("doctor", "--json", **variables)).out)
        assert [one for one in findings if "privilege" in one["code"]] == []  # it misses nothing that grant left out
        shown = await commands.run("grant", "--show", **variables)
        assert re.search(rf"{bi.name} +│ reader +│ yes +│ nothing +│ nothing", shown.out), shown.transcript

        seen: set[str] = set()
        for words in (options, ("--show",)):
            document = await commands.run("grant", *words, "--json", **variables)
            assert read_documents("grant", document.out, seen), document.transcript
        document = await commands.run("revoke", *options, "--json", **variables)
        assert read_documents("revoke", document.out, seen), document.transcript
        (first, *_) = json.loads(document.out)["revokes"]
        assert (first["role"], first["kind"]) == (bi.name, "reader")
        assert any(statement.startswith("REVOKE SELECT ON TABLE") for statement in first["statements"])
        again = await commands.run("revoke", "--reader", bi.name, **variables)
        assert again.err == f"role {bi.name} was not a reader; nothing was revoked\n"


async def test_a_role_that_may_do_more_is_named(commands: Commands, postgres: Server, database_url: str) -> None:
    async with role(postgres, database_url) as bi:
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("GRANT SELECT ON eventstore.events TO PUBLIC")
        result = await commands.run("grant", "--reader", bi.name, DATABASE_URL=database_url)
        assert result.code == 0, result.transcript
        assert "may do more: SELECT on eventstore.events; this was granted by hand, to everybody" in result.err


async def test_usage_errors_are_one_sentence(commands: Commands, database_url: str) -> None:
    for words, sentence in {
        ("grant",): NAME_ONE,
        ("revoke",): NAME_ONE,
        ("grant", "--show", "--reader", "bi"): "give --show alone, or with --json",
        ("grant", "--reader", "absent"): 'role absent does not exist; create it first: CREATE ROLE "absent" LOGIN'
        " PASSWORD '…'",
        ("grant", "--serve", "PUBLIC"): "public is everybody, not a role: create a role and grant to it",
    }.items():
        result = await commands.run(*words, DATABASE_URL=database_url)
        assert (result.code, result.stderr_line) == (2, f"projections: {sentence}")
