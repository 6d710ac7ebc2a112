"""The commands on a log that Citus distributes, as processes: what they print is what they print on one server.

Needs a cluster: see tests/citus.py.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from difflib import unified_diff
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx2
import psycopg
import pytest
from psycopg import AsyncConnection, sql

from eventstore.consuming.consumer import consumer
from eventstore.event_reader import read_head
from projections.granting.grant_roles import RoleRequest
from projections.granting.role_kinds import RoleKind
from projections.migrating.metadata import READ_MODELS
from projections.sandbox.simulator import Fault, FaultKind
from tests import folding, store
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.citus import CitusDatabase, needs_citus
from tests.doctoring import OF_TEST_SERVERS
from tests.fix_simulator import LOG, TOKEN, SimulatorFactory, entries_of
from tests.folding import append, new_record
from tests.http_requests import send_request, served_url
from tests.queries import fetch_all
from tests.roles import grant_to, revoke_from
from tests.store import CHAT

pytestmark = [pytest.mark.newest, needs_citus]
PERSON = "12300000003"
APP = "shop"
SAME = (
    "status --json",
    "wait --head --json",
    "apps list --json",
    "cursor show --json",
    "consumers list --json",
    "quarantine list --json",
    "quarantine show 1 --json",
    "quarantine retry --all --json",
    "explain consent_registry {person} --json",
    "explain people {person}",
    "explain request_status {request} --json",
    "explain poll_tallies nobody",
    "verify --json",
    "rebuild --all --dry-run --json",
    "rebuild people request_status",
    "rebuild --all --as-of {event} --into as_of --json",
    "rebuild people --as-of {event} --into as_of --force",
    "pause people",
    "status",
    "resume people",
    "skip people --event-id {event} --why tried",
    "quarantine drop 1 --yes --json",
    "reconcile --limit 5",
    "grant --show --json",
    "export erasures {folder}/ledger --force",
)
_TIMES = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?|\d+\.\d+ s|\w*seconds\w*\": ([\d.]+|{[^}]*})"
)


@pytest.fixture
async def conn(distributed: CitusDatabase) -> AsyncIterator[AsyncConnection]:
    async with store.connection(distributed.url) as conn:
        yield conn


def plain(result: CommandResult) -> list[str]:
    """Return the exit code and what a command printed, without times."""
    return [f"exit code {result.code}", *_TIMES.sub("TIME", result.out + result.err).splitlines()]


async def test_a_distributed_log_is_followed_and_its_commands_print_what_they_print_on_one_server(
    commands: Commands,
    distributed: CitusDatabase,
    conn: AsyncConnection,
    database_url: str,
    simulator_factory: SimulatorFactory,
    tmp_path: Path,
) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(FaultKind.GARBAGE, after=20), Fault(FaultKind.UNAVAILABLE, after=40))
    upstream = {"PCS_EXTERNAL_API_URL": simulator.address, "PROJECTIONS_TOKEN": TOKEN, "PROJECTIONS_APP": APP}
    run = ("run", "--until-idle", "1")
    followed = await commands.run(*run, **QUICK, **upstream, DATABASE_URL=distributed.url)
    assert followed.code == 0, followed.transcript
    assert f"{len(entries_of(CHAT))} new events" in followed.err
    await folding.assert_rows_match_oracle(conn)

    # The same log on one server: the other way round it is tested in test_citus.py.
    file = str(tmp_path / "log")
    exported = await commands.run("export", "events", file, DATABASE_URL=distributed.url)
    assert exported.code == 0, exported.transcript
    assert (await commands.run("migrate", DATABASE_URL=database_url)).code == 0
    imported = await commands.run("import", "events", file, DATABASE_URL=database_url)
    assert imported.code == 0, imported.transcript
    folded = await commands.run("run", "--no-ingest", "--until-idle", "0.2", **QUICK, DATABASE_URL=database_url)
    assert folded.code == 0, folded.transcript

    row = await fetch_all(conn, "SELECT event_id, send_request_id, ppnum FROM eventstore.events WHERE position = 70")
    (event, request, person), *_ = row
    differing: list[str] = []
    for line in SAME:
        words = line.format(event=event, request=request, person=person, folder=tmp_path).split()
        here, there = [
            plain(await commands.run(*words, **QUICK, **upstream, DATABASE_URL=url))
            for url in (distributed.url, database_url)
        ]
        differing += [f"$ {line}", *unified_diff(here, there, n=0, lineterm="")] if here != there else []
    assert differing == [], "\n".join(differing)

    codes = []
    for url in (distributed.url, database_url):
        found = await commands.run("doctor", "--json", DATABASE_URL=url)
        codes.append(set(re.findall(r'"code": "(\w+)"', found.out)) - OF_TEST_SERVERS)
    assert codes[0] == codes[1]

    # What an as-of built has the same rows, and is distributed like the read model.
    query = "SELECT array_agg(p ORDER BY p) FROM (SELECT p::text FROM as_of.people AS p) AS r (p)"
    async with store.connection(database_url) as other:
        assert await store.value(conn, query) == await store.value(other, query)
    distribution = "SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = 'as_of.people'::regclass"
    assert await store.value(conn, distribution) == 1

    # Back into another distributed log is what a restore does; here every event is there already.
    again = await commands.run("import", "events", file, DATABASE_URL=distributed.url)
    assert (again.code, "0 of them new" in again.out) == (0, True), again.transcript


async def test_processes_share_a_distributed_log_and_go_on_when_one_is_killed(
    commands: Commands, distributed: CitusDatabase, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG)
    variables = {
        **QUICK,
        "PCS_EXTERNAL_API_URL": simulator.address,
        "PROJECTIONS_TOKEN": TOKEN,
        "PROJECTIONS_APP": APP,
        "PROJECTIONS_POLL": "0.2",
        "DATABASE_URL": distributed.url,
    }
    running = [await commands.start("run", "--http", "127.0.0.1:0", **variables) for _ in range(3)]
    urls = [await served_url(one) for one in running]

    async def at_head() -> bool:
        head, events = await read_head(conn), len(entries_of(CHAT))
        behind = await fetch_all(conn, "SELECT read_model FROM read_model_freshness WHERE events_behind > 0")
        return head >= events and not behind

    await store.wait_until(at_head, "all events folded")
    followers = await fetch_all(
        conn, "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'projections ingest %%'"
    )
    metrics = (await send_request(urls[0] + "metrics")).text
    assert 'projections_lag_events{projection="people"} 0.0' in metrics
    assert 'projections_folding_sessions{projection="people"} 3.0' in metrics
    assert "The read models are up to date." in (await first_reading(urls[1]))
    for url in urls:
        assert (await send_request(url + "readyz")).status == 200

    # Who follows is killed, while events are appended; the others go on, each window folded by one of them.
    victim = next(one for one in running if any(f":{one.pid}" in name for (name,) in followers))
    await append(conn, *(new_record(ppnum=PERSON, request=f"request {n}", app=APP) for n in range(50)))
    victim.send(signal.SIGKILL)
    for n in range(5):
        await append(conn, *(new_record(ppnum=PERSON, request=f"later {n}", app=APP) for _ in range(10)))
    waited = await commands.run("wait", "--head", DATABASE_URL=distributed.url)
    assert waited.code == 0, waited.transcript
    for one in running:
        if one is not victim:
            one.send(signal.SIGTERM)
            assert (await one.wait()).code == 0
    await folding.assert_rows_match_oracle(conn)


async def test_roles_run_the_product_on_a_distributed_log(
    commands: Commands, distributed: CitusDatabase, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG)
    upstream = {"PCS_EXTERNAL_API_URL": simulator.address, "PROJECTIONS_TOKEN": TOKEN, "PROJECTIONS_APP": APP}
    async with roles(distributed, conn) as urls:
        ingest = await commands.run(
            "ingest", "--until-idle", "1", **QUICK, **upstream, DATABASE_URL=urls[RoleKind.INGEST]
        )
        assert ingest.code == 0, ingest.transcript
        worker = {**QUICK, "DATABASE_URL": urls[RoleKind.WORKER]}
        for line, code in (
            ("run --no-ingest --until-idle 0.2", 0),
            ("verify", 0),
            ("rebuild people", 0),
            (f"explain consent_registry {PERSON}", 0),
            ("check people", 0),
            ("status", 0),
            ("wait --head", 0),
            ("pause people", 0),
            ("resume people", 0),
            ("erase 12300000003 --why tried --yes", 1),
        ):
            done = await commands.run(*line.split(), **worker)
            assert done.code == code, done.transcript
        await folding.assert_rows_match_oracle(conn)
        found = await commands.run("doctor", "--json", **worker)
        assert not {"worker_unavailable", "check_failed", "role_privilege", "not_permitted"} & set(
            re.findall(r'"code": "(\w+)"', found.out)
        )

        head = await read_head(conn)
        url = urls[RoleKind.CONSUMER]
        batches = consumer("billing", url, follow=False, waits=folding.QUICK)
        assert sum([len(batch) async for batch in batches]) == head

        async with store.connection(urls[RoleKind.READER]) as reading:
            fresh = await fetch_all(reading, "SELECT read_model, position, events_behind FROM read_model_freshness")
            assert sorted(fresh) == sorted((one.name, head, 0) for one in READ_MODELS)
            assert await store.value(reading, "SELECT count(*) FROM request_status") == await store.value(
                conn, "SELECT count(*) FROM request_status"
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await reading.execute("SELECT payload FROM eventstore.events")
            await asyncio.to_thread(revoke_from, distributed.url, *requests_of(urls))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await reading.execute("SELECT count(*) FROM request_status")


@asynccontextmanager
async def roles(citus: CitusDatabase, conn: AsyncConnection) -> AsyncIterator[dict[RoleKind, str]]:
    """Create a role of each kind, which Citus does on all servers; yields their URLs.

    They have the superuser's password, with which the servers reach each other.
    """
    parts = urlsplit(citus.url)
    place = parts.netloc.rpartition("@")[2]
    password = f":{parts.password}" if parts.password else ""
    urls: dict[RoleKind, str] = {}
    try:
        for kind in RoleKind:
            name = f"role_{secrets.token_hex(4)}"
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            await conn.execute(create.format(sql.Identifier(name), sql.Literal(parts.password)))
            urls[kind] = urlunsplit(parts._replace(netloc=f"{name}{password}@{place}"))
        await asyncio.to_thread(grant_to, citus.url, *requests_of(urls))
        yield urls
    finally:
        for url in urls.values():
            role = sql.Identifier(str(urlsplit(url).username))
            await conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
            await conn.execute(sql.SQL("DROP ROLE {}").format(role))


def requests_of(urls: dict[RoleKind, str]) -> list[RoleRequest]:
    return [RoleRequest(str(urlsplit(url).username), kind) for kind, url in urls.items()]


async def first_reading(url: str) -> str:
    """Return the first reading that the page gets."""
    async with httpx2.AsyncClient(trust_env=False) as client, client.stream("GET", url + "readings") as response:
        async for line in response.aiter_lines():
            if line.startswith("data:") and "verdict" in line:
                return line
    raise AssertionError("the page got no reading")
