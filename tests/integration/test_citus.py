"""On Citus, with a coordinator and workers, the product does what it does on one server, and the rows are the same.

Needs a cluster: see tests/citus.py. Without one, only what is said about databases without Citus is tested.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection, errors, sql

from eventstore.appending.append import Appender
from eventstore.appending.quarantine import Rejected
from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.appending.retrying import Candidate, store_quarantined
from eventstore.consuming.consumer import consumer
from eventstore.consuming.consumers import read_consumers
from eventstore.consuming.page_reader import EventFilter, PageReader
from eventstore.contracts import Contract, Event, decode
from eventstore.distributed_log import is_distributed
from eventstore.erasure.erasure_token import is_token
from eventstore.errors import DatabaseError
from eventstore.event_reader import read_head
from eventstore.redecode import CannotRedecode, Redecoded, redecode
from eventstore.transfer.export import export_erasures
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import EraseRequest
from projections.erasing.final_checks import FinalChecks, check_after_erasure
from projections.erasing.leftovers import find_leftovers
from projections.erasing.receipt import describe_erasure
from projections.errors import MigrationRefused
from projections.inspecting.read_live_status import read_live_status
from projections.migrating.distribute import distribute
from projections.migrating.go_back import go_back
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.migrating.schema_drift import find_drift
from projections.projection import Projection
from projections.rebuilding.redecode_and_mark import redecode_and_mark
from projections.registry import find_projections
from projections.running.window_step import Step
from tests import folding, oracle, store, transferring
from tests.citus import CitusDatabase, citus_database, needs_citus, unfinished_commit
from tests.citus_containers import ClusterServer
from tests.erasing import BUILT_IN, KEY, again, erase
from tests.folding import append, decode_record, fold, new_record, worker, worker_connection
from tests.queries import fetch_all
from tests.rebuilding import (
    ANY_REMOVAL,
    CHANGES,
    NOBODY,
    OptOuts,
    rebuild,
    replay_context,
    sample_records,
    total_differences,
    verify,
)
from tests.servers import wheel_binaries

WITHOUT_REQUEST = 5
PAUSE = 0.3
"""Seconds between two ends of sessions, at the most."""
_MANUAL = "citus.enable_manual_changes_to_shards"
PROJECTIONS = (*READ_MODELS, OptOuts)

pytestmark = pytest.mark.newest


@pytest.fixture
def citus(citus_cluster: tuple[ClusterServer, ...]) -> Iterator[CitusDatabase]:
    """A migrated database on every server of a cluster; its log is not distributed yet."""
    with citus_database(citus_cluster) as database:
        upgrade(database.url, projections=[OptOuts()])
        yield database


@pytest.fixture
async def conn(citus: CitusDatabase) -> AsyncIterator[AsyncConnection]:
    async with store.connection(citus.url) as conn:
        yield conn


def records_without_request() -> list[oracle.Record]:
    kinds = (oracle.GRANTED, oracle.DENIED)
    return [new_record(kinds[n % 2], f"1239000{n:04}", request=None) for n in range(WITHOUT_REQUEST)]


async def assert_same_rows(conn: AsyncConnection) -> None:
    """Assert that every read model has the rows that the oracle computes from the log."""
    stored = await folding.stored_records(conn)
    records = [one if one.send_request_id else replace(one, send_request_id=None) for one in stored]
    found, expected = await folding.read_model_rows(conn), oracle.read_models(records)
    for name in oracle.COLUMNS:
        assert found[name] == expected[name], name


async def damage_rows(conn: AsyncConnection, projection: type[Projection]) -> int:
    """Remove the rows of one app, change those of another, and add some; return how many rows differ then."""
    total = 0
    for table in projection.tables:
        name = sql.Identifier("public", table.name)
        columns = [one.name for one in table.c if one.computed is None]
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        values = sql.SQL(", ").join(sql.Literal(NOBODY) if one == "app" else sql.Identifier(one) for one in columns)
        add = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE app = 'app-2'").format(name, listed, values, name)
        change = sql.SQL("UPDATE {} SET {} WHERE app = 'app'").format(name, sql.SQL(CHANGES[table.name]))
        for statement in (add, change, sql.SQL("DELETE FROM {} WHERE app = 'app-2'").format(name)):
            total += (await conn.execute(statement)).rowcount
    return total


@needs_citus
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"], ids=["by bytes", "not by bytes"])
async def test_tables_are_compared_whatever_the_collation_of_the_database_is(
    citus_cluster: tuple[ClusterServer, ...], locale: str
) -> None:
    with citus_database(citus_cluster, locale=locale) as database:
        upgrade(database.url, projections=[])
        distribute(database.url, projections=[])
        async with store.connection(database.url) as conn:
            await append(conn, *sample_records(2))
            await folding.fold_all(database.url)
            for projection in READ_MODELS:
                await damage_rows(conn, projection)
                assert not (await verify(database.url, projection())).equal, projection.name
                await rebuild(database.url, projection(), limits=ANY_REMOVAL)
                assert (await verify(database.url, projection())).equal, projection.name
            await assert_same_rows(conn)


@needs_citus
async def test_a_log_is_distributed_with_its_events_and_goes_on(
    citus: CitusDatabase, conn: AsyncConnection, elsewhere: str, tmp_path: Path
) -> None:
    before = [*sample_records(4), *records_without_request()]
    await append(conn, *before)
    await folding.fold_all(citus.url, PROJECTIONS)

    done = distribute(citus.url, projections=[OptOuts()])
    assert (done.servers, done.events) == (len(citus.workers), len(before))
    assert {done.tables["request_status"], done.tables["poll_tallies"]} == {"send_request_id"}
    assert {done.tables["consent_registry"], done.tables["people"], done.tables["opt_outs"]} == {"ppnum"}
    assert await is_distributed(conn)
    again = distribute(citus.url, projections=[OptOuts()])
    assert (again.events, again.tables) == (None, {})
    of_events = "FROM citus_shards WHERE table_name = 'eventstore.events'::regclass"
    servers = await store.value(conn, f"SELECT count(DISTINCT (nodename, nodeport)) {of_events}")
    assert servers == len(citus.workers)

    # Events from before and after are read as they were stored, those without a request included.
    after = [*sample_records(4, app="app-2"), *records_without_request()]
    stored = await append(conn, *after)
    assert (stored.stored, stored.head) == (len(after), len(before) + len(after))
    assert await store.stored_events(conn) == [decode_record(record) for record in (*before, *after)]
    page = await PageReader(EventFilter()).read_page(conn, 0)
    assert [one.event.send_request_id for one in page.events] == [one.send_request_id for one in (*before, *after)]
    assert await store.value(conn, "SELECT count(*) FROM public.event_log WHERE send_request_id IS NULL") == 10

    handed_out = [
        one.event
        async for batch in consumer("billing", citus.url, follow=False, batch_events=50, waits=folding.QUICK)
        for one in batch
    ]
    assert handed_out == [decode_record(record) for record in (*before, *after)]
    (billing,) = await read_consumers(conn)
    assert (billing.position, billing.events_behind, billing.is_in_log) == (stored.head, 0, True)

    # An id is stored once, even if another request is named by what has it.
    twin = after[0]
    repeated = await append(conn, twin, replace(twin, send_request_id="another request"))
    assert (repeated.stored, repeated.duplicates, repeated.quarantined) == (0, 1, 1)

    # A message that was quarantined and is an event after all is stored after the head.
    late = decode_record(new_record(request=None))
    rejected = Rejected(late.app, late.contract, late.payload, "not yet known", late.event_id)
    await Appender(conn, folding.QUICK).append([], rejected=[rejected])
    number = await store.value(conn, "SELECT id FROM eventstore.quarantine WHERE event_id = %s", late.event_id)
    retried = await store_quarantined(conn, [Candidate(int(str(number)), late)], DEFAULT_LIMITS, folding.QUICK)
    assert retried.stored == [number]
    head = await read_head(conn)
    assert head == stored.head + 1

    await folding.fold_all(citus.url, PROJECTIONS, batch_size=13)
    await assert_same_rows(conn)
    status = await read_live_status(conn, find_projections())
    assert {one.events_behind for one in status.projections if one.name != "opt_outs"} == {0}
    assert await find_drift(conn) == []

    # The log leaves with an export, and comes back with an import, here and on one server.
    file = tmp_path / "log"
    await transferring.export(conn, file)
    assert (await transferring.import_file(citus.url, file)).stored == 0
    async with store.connection(elsewhere) as there:
        assert (await transferring.import_file(elsewhere, file)).stored == head
        assert await store.stored_events(there) == await store.stored_events(conn)


@needs_citus
async def test_what_differs_from_a_distributed_log_is_found_and_rebuilt(
    citus: CitusDatabase, conn: AsyncConnection
) -> None:
    distribute(citus.url, projections=[OptOuts()])
    await append(conn, *sample_records(4), *sample_records(4, app="app-2"), *records_without_request())
    await folding.fold_all(citus.url, PROJECTIONS)
    for projection in PROJECTIONS:
        assert (await verify(citus.url, projection(), window=50)).equal, projection.name
        damaged = await damage_rows(conn, projection)
        found = await verify(citus.url, projection())
        assert total_differences(found) == damaged, projection.name
        assert found.samples
        rebuilt = await rebuild(citus.url, projection(), limits=ANY_REMOVAL)
        assert total_differences(rebuilt) == damaged, projection.name
    await assert_same_rows(conn)


@needs_citus
async def test_what_a_distributed_log_refuses(citus: CitusDatabase, conn: AsyncConnection) -> None:
    await append(conn, *records_without_request())
    distribute(citus.url, projections=[])
    for change in (
        "UPDATE eventstore.events SET app = 'another' WHERE position = 1",
        "DELETE FROM eventstore.events",
        "TRUNCATE eventstore.events",
    ):
        with pytest.raises(errors.ModifyingSqlDataNotPermitted, match="refused"):
            await conn.execute(change.encode())
    with pytest.raises(MigrationRefused, match="the log is distributed by Citus"):
        go_back(citus.url, "0022")
    assert await read_head(conn) == WITHOUT_REQUEST


@needs_citus
async def test_a_distributed_log_is_redecoded_but_for_the_request(citus: CitusDatabase, conn: AsyncConnection) -> None:
    distribute(citus.url, projections=[])
    await append(conn, *sample_records(4), *records_without_request())
    await folding.fold_all(citus.url)
    before = await store.stored_events(conn)
    outdated = [
        {**one._asdict(), "position": position, "ppnum": "0", "event_type": 9, "error_code": "other"}
        for position, one in enumerate(before, 1)
        if position % 7 == 0
    ]
    text = json.dumps([{**one, "payload": None} for one in outdated], default=str)
    async with conn.transaction():  # the permit goes to the other servers with a transaction
        assert await store.value(conn, "SELECT eventstore.redecode(%s::jsonb)", text) == len(outdated)
    assert await store.stored_events(conn) != before
    done, marked = await run_redecode(citus.url)
    assert (done.read, done.changed, done.refused) == (len(before), len(outdated), 0)
    assert await store.stored_events(conn) == before
    assert marked == sorted(projection.name for projection in READ_MODELS)
    assert not await store.value(conn, "SELECT events_changed FROM eventstore.distributed_head")

    moved = before[10].event_id

    def learned(payload: bytes, app: str, contract: Contract) -> Event:
        event = decode(payload, app, contract)
        return event._replace(send_request_id="other" if event.event_id == moved else event.send_request_id, ppnum="1")

    with pytest.raises(CannotRedecode, match=rf"position 11 \({moved}\) now has another send_request_id"):
        await redecode(conn, on_progress=ignore_progress, decoder=learned, is_distributed=True)
    changed = json.dumps([{**outdated[0], "payload": None, "send_request_id": "other"}], default=str)
    with pytest.raises(errors.RaiseException, match="can not get another send_request_id"):
        async with conn.transaction():
            await conn.execute("SELECT eventstore.redecode(%s::jsonb)", [changed])
    assert await store.stored_events(conn) == before


@needs_citus
async def test_persons_are_erased_from_a_distributed_log_while_it_grows(
    citus: CitusDatabase, conn: AsyncConnection
) -> None:
    first, second, third = (f"1230000{number:02}{number % 4:02}" for number in (0, 1, 2))
    distribute(citus.url, projections=[])
    await append(conn, *sample_records(4), *sample_records(4, app="app-2"), *records_without_request())
    await folding.fold_all(citus.url)
    places = {one.table for one in (await find_leftovers(conn, [first])).found}
    planned = await erase(citus.url, first, second, dry_run=True)
    assert places == {name for name, rows in planned.tables.items() if rows}
    assert {"eventstore.events", "public.request_recipients", "public.people", "public.consent_registry"} <= places
    verified = {name: (await verify(citus.url, one)).equal for name, one in BUILT_IN.items()}
    assert verified == dict.fromkeys(BUILT_IN, True)

    # Events of theirs that are received meanwhile are from before, so they get the token too.
    async with folding.running_workers(citus.url, *(worker(citus.url, one()) for one in READ_MODELS)):
        later = [new_record(ppnum=one, request=f"later {n}") for n in range(9) for one in (first, "7")]
        receiving = asyncio.create_task(receive(citus.url, later))
        done = await erase(citus.url, first, second, key=KEY)
        await receiving
    assert (done.erased, done.need_rebuild, done.not_erased) == (2, set(), {})
    assert done.tables["public.people"] >= planned.tables["public.people"] > 0
    await folding.fold_all(citus.url)
    await assert_same_rows(conn)
    for one in BUILT_IN.values():
        assert (await verify(citus.url, one)).equal, one.name
    assert not await store.value(conn, "SELECT events_changed FROM eventstore.distributed_head")

    # Persons by the age of their events; afterwards everything is checked, for the receipt.
    request = EraseRequest(None, why="old", system_user="tester", older_than=timedelta(days=30))
    context, checks = replay_context(citus.url), FinalChecks()
    idle = await erase_persons(context, BUILT_IN, request, DEFAULT_LIMITS, dry_run=True)
    numbers = "SELECT count(DISTINCT ppnum) FROM eventstore.events WHERE ppnum <> '' AND ppnum !~ '^erased:'"
    assert idle.asked == await store.value(conn, numbers)
    last = await erase(citus.url, third)
    changed, app = list(last.tables), None
    await check_after_erasure(
        context, BUILT_IN, last.gone, changed, checks, app=app, verifies=True, is_distributed=last.is_distributed
    )
    receipt = describe_erasure(request, last, checks, at=datetime.now(UTC))
    assert {one["name"]: one["equal"] for one in receipt["verified"]} == dict.fromkeys(BUILT_IN, True)
    assert receipt["searched"] is not None
    assert (receipt["searched"]["left"], receipt["searched"]["unreadable"], receipt["not_vacuumed"]) == ([], [], [])

    # Neither the search nor a dump of each worker finds a number; the tokens are there.
    assert (await find_leftovers(conn, [first, second, third])).found == []
    async with conn.transaction(force_rollback=True):  # as if Citus had moved a part to another server
        await conn.execute("INSERT INTO pg_catalog.pg_dist_cleanup VALUES (0, 0, 1, 'eventstore.events_1', 1, 2)")
        assert (await find_leftovers(conn, [first])).unreadable == ["eventstore.events_1"]
    dumps = b"".join(dump_shards(url) for url in citus.workers)
    for number in (first, second, third):
        assert number.encode() not in dumps
        assert number.encode().hex().encode() not in dumps
    assert all(person.token.encode() in dumps for person in done.persons)


@needs_citus
async def test_a_restored_distributed_log_is_erased_again(
    citus: CitusDatabase, conn: AsyncConnection, citus_cluster: tuple[ClusterServer, ...], tmp_path: Path
) -> None:
    records = [*sample_records(2), *sample_records(2, app="app-2")]
    number = str(records[0].ppnum)
    await append(conn, *records)
    await erase(citus.url, str(records[5].ppnum))  # a log with erased persons can be distributed
    backup, ledger = tmp_path / "backup", tmp_path / "ledger"
    await transferring.export(conn, backup)
    distribute(citus.url, projections=[])
    await folding.fold_all(citus.url)
    token = (await erase(citus.url, number)).persons[0].token
    await export_erasures(conn, ledger)
    with citus_database(citus_cluster) as restored:
        upgrade(restored.url, projections=[])
        distribute(restored.url, projections=[])
        await transferring.import_file(restored.url, backup)
        await folding.fold_all(restored.url)
        async with store.connection(restored.url) as other:
            done = await again(restored.url, ledger)
            assert done.need_rebuild == set()
            assert await store.stored_events(other) == await store.stored_events(conn)
            assert token in {event.ppnum for event in await store.stored_events(other)}
            assert (await find_leftovers(other, [number])).found == []
            await assert_same_rows(other)
            assert await receive(restored.url, [records[0]]) == (0, 1)
            assert await store.value(other, "SELECT bool_and(applied AND NOT awaited) FROM eventstore.erasures")


@needs_citus
async def test_while_events_change_a_fold_waits_for_unfinished_commits(
    citus: CitusDatabase, conn: AsyncConnection
) -> None:
    """After a lost connection, a server may for a while have events as they were before they were erased."""
    distribute(citus.url, projections=[])
    await append(conn, *sample_records(2))
    one = worker(citus.url, BUILT_IN["people"])
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND query LIKE '%%pg_prepared_xacts%%' AND application_name LIKE 'projections %%'"
    )

    async def is_waiting() -> bool:
        return bool(await store.value(conn, waiting))

    async with worker_connection(one) as own:
        async with unfinished_commit(citus, conn):
            await conn.execute("UPDATE eventstore.distributed_head SET events_changed = true")
            folding_one = asyncio.create_task(fold(one, own))
            await store.wait_until(is_waiting, "a fold that waits")
            assert not folding_one.done()
            assert await folding.position(conn, "people") == 0
        assert await folding_one is Step.AT_HEAD
    assert await folding.position(conn, "people") == await read_head(conn)


@needs_citus
async def test_killed_connections_of_workers_change_nothing(citus: CitusDatabase, conn: AsyncConnection) -> None:
    """Sessions on the workers are ended while events are appended and folded; every batch is stored once."""
    distribute(citus.url, projections=[])
    records = [*sample_records(8), *records_without_request()]
    batches = [records[start : start + 20] for start in range(0, len(records), 20)]
    numbers_of_persons = {str(records[n].ppnum) for n in (0, 5, 25)}
    stop, ender = asyncio.Event(), SessionEnder(citus.workers)
    ending = asyncio.create_task(ender.keep_ending(stop))
    try:
        for batch in batches:
            await ender.retrying(partial(folding.append_in_new_session, citus.url, *batch))
            await ender.retrying(partial(fold_once, citus.url))
        for number in numbers_of_persons:
            await ender.retrying(partial(erase, citus.url, number))
    finally:
        stop.set()
        await ending
    assert ender.ended
    async with store.connection(citus.url) as finishing:
        await finishing.execute("SELECT recover_prepared_transactions()")
    await store.wait_until(lambda: all_folded(citus.url), "all projections at the head")
    stored = await store.stored_events(conn)
    for event, record in zip(stored, records, strict=True):
        assert event.event_id == record.event_id
        assert is_token(str(event.ppnum)) if record.ppnum in numbers_of_persons else event == decode_record(record)
    await assert_same_rows(conn)
    for projection in READ_MODELS:
        assert (await verify(citus.url, projection())).equal, projection.name


async def receive(url: str, records: Sequence[oracle.Record]) -> tuple[int, int]:
    """Append events one by one with the erasure key, in a session of its own; returns new events and duplicates."""
    total = (0, 0)
    async with store.connection(url) as own:
        appender = Appender(own, folding.QUICK, DEFAULT_LIMITS, KEY)
        for record in records:
            done = await appender.append([decode_record(record)])
            total = (total[0] + done.stored, total[1] + done.duplicates)
    return total


def dump_shards(url: str) -> bytes:
    """Return what pg_dump writes of a worker, the parts of distributed tables included."""
    pg_dump = str(wheel_binaries(18) / "pg_dump")
    variables = {**os.environ, "PGOPTIONS": f"-c citus.override_table_visibility=off -c {_MANUAL}=on"}
    return subprocess.run([pg_dump, url], check=True, capture_output=True, env=variables).stdout


async def run_redecode(url: str) -> tuple[Redecoded, list[str]]:
    projections = [projection() for projection in READ_MODELS]
    return await redecode_and_mark(replay_context(url), projections, after=0, on_progress=ignore_progress)


def ignore_progress(_position: int, _head: int) -> None:
    """Ignore the progress."""


class SessionEnder:
    """Ends sessions on the workers of a cluster, one after another.

    Attributes:
        ended: how many it has ended.

    """

    def __init__(self, workers: Sequence[str]) -> None:
        self.ended = 0
        self._workers = workers
        self._numbers = random.Random(1)  # noqa: S311 - which sessions are ended
        self._longest = PAUSE

    async def keep_ending(self, stop: asyncio.Event) -> None:
        """End sessions, between any two statements, until it shall stop."""
        while not stop.is_set():
            async with store.connection(self._numbers.choice(self._workers)) as there:
                rows = await fetch_all(
                    there,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY random() LIMIT 1",
                )
                self.ended += len(rows)
            await asyncio.sleep(self._numbers.random() * self._longest)

    async def retrying(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Try again after errors of the database, as the product does, until it is done."""
        for _ in range(200):
            try:
                await attempt()
            except (psycopg.Error, DatabaseError):
                self._longest *= 1.05  # on a slow machine, an attempt may take longer than the first pauses
                continue
            self._longest = PAUSE
            return
        raise AssertionError("200 attempts failed")


async def fold_once(url: str) -> None:
    for projection in READ_MODELS:
        one = worker(url, projection())
        async with worker_connection(one) as conn:
            await fold(one, conn)


async def all_folded(url: str) -> bool:
    steps = []
    for projection in READ_MODELS:
        one = worker(url, projection())
        async with worker_connection(one) as conn:
            steps.append(await fold(one, conn))
    return all(step is Step.AT_HEAD for step in steps)


async def test_a_database_without_citus_is_left_alone(database_url: str) -> None:
    with pytest.raises(MigrationRefused, match="this database has no Citus"):
        distribute(database_url, projections=[])
    async with store.connection(database_url) as conn:
        assert not await is_distributed(conn)
        await append(conn, new_record())
        assert await read_head(conn) == 1
