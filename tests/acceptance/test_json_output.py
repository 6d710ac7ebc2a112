"""What each command writes with ``--json`` has the keys and types that docs/api.md lists, and no others.

A new command gets a line in ``CASES``, or one in ``READ_ELSEWHERE`` if its own tests call ``read_documents``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.consuming.consumer import consumer
from eventstore.ingest import cursor_row
from eventstore.ingest.lost_events import KnownHeads
from eventstore.locks import app_lock, consumer_lock
from projections.read_models.request_status import RequestStatus
from projections.running import state_changes
from projections.running.folding_sessions import announce_folding, folding_session_name
from tests import folding, oracle, store
from tests.acceptance.command import Commands
from tests.folding import append, insert_at, new_record
from tests.json_documents import json_documents, read_documents
from tools.json_shapes import keys_of

PPNUM = "12300000003"
CONSUMER = "billing"
FOLLOWER = f"projections ingest {store.APP} host:1"
CASES: Sequence[tuple[str, Sequence[str], int]] = (
    ("migrate", (), 0),
    ("list", (), 0),
    ("docs", (), 0),
    ("wait", ("--head",), 0),
    ("pause", ("poll_tallies",), 0),
    ("resume", ("poll_tallies",), 0),
    ("explain", ("consent_registry", PPNUM), 1),
    ("verify", (), 1),
    ("rebuild", ("consent_registry", "--dry-run"), 0),
    ("rebuild", ("consent_registry", "request_status"), 0),
    ("rebuild", ("--all", "--as-of", "2100-01-01T00:00:00Z", "--into", "as_of"), 0),
    ("verify", ("consent_registry",), 0),
    ("redecode", (), 0),
    ("export events", ("log",), 0),
    ("import events", ("log",), 0),
    ("db url", (), 0),
    ("migrate", ("--partition-events", "50M"), 0),
    ("doctor", (), 1),
    ("consumers reset", (CONSUMER, "--to", "now", "--yes"), 0),
    ("consumers drop", (CONSUMER, "--yes"), 0),
    ("cursor reset", (store.APP, "--yes", "--since", "2d"), 0),
    ("apps forget", (store.APP, "--yes"), 0),
)
"""Words, arguments and exit codes, in the order in which they run on one database."""
AT_LAST = 4
WITH_TROUBLE = ("status", "cursor show", "apps", "apps list", "consumers", "consumers list")
"""Commands that run after an app and a projection got into trouble, before the last ones of ``CASES``."""
FIRST = "skip"
READ_ELSEWHERE: Mapping[str, str] = {
    "new": "acceptance/test_new_command.py",
    "check": "acceptance/test_check_command.py",
    "grant": "acceptance/test_grant_command.py",
    "revoke": "acceptance/test_grant_command.py",
    "db start": "acceptance/test_db_command.py",
    "db stop": "acceptance/test_db_command.py",
    "quarantine list": "acceptance/test_quarantine_command.py",
    "quarantine show": "acceptance/test_quarantine_command.py",
    "quarantine retry": "acceptance/test_quarantine_command.py",
    "quarantine export": "acceptance/test_quarantine_command.py",
    "quarantine drop": "acceptance/test_quarantine_command.py",
    "reconcile": "acceptance/test_reconcile_command.py",
    "archive": "acceptance/test_archive_command.py",
    "erase": "acceptance/test_erase_command.py",
    "export erasures": "acceptance/test_erase_command.py",
}
"""Commands whose documents another test reads with ``read_documents``, and its file."""
UNSEEN = {
    "ExportedLog: missing[].first",  # no position is missing here
    "ExportedLog: missing[].last",
    "ExplainedRow: counted",  # no built-in read model has rows that move between groups
    # This server has no Citus.
    *(f"MigratedSchema: distributed{key}" for key in ("", ".events", ".locked_seconds", ".tables", ".workers")),
    "StatusDocument: ledger",  # no ledger is configured
    "ForgottenApp: last_event_id",  # the cursor was reset before
}
"""Keys that are null, or in no object, in all documents of this test."""
TESTS = Path(__file__).resolve().parents[1]


def test_some_test_reads_the_documents_of_every_command() -> None:
    here = {words for words, _, _ in CASES} | {*WITH_TROUBLE, FIRST}
    assert here | READ_ELSEWHERE.keys() == json_documents().keys(), "add the command to CASES or to READ_ELSEWHERE"
    for words, file in READ_ELSEWHERE.items():
        assert f'read_documents("{words}"' in (TESTS / file).read_text(), f"{file} reads no documents of {words}"


async def test_every_command_writes_the_documented_keys(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    seen: set[str] = set()

    async def run(words: str, *arguments: str, code: int = 0) -> None:
        result = await commands.run(*words.split(), *arguments, "--json", DATABASE_URL=database_url)
        assert result.code == code, f"projections {words}: {result.transcript}"
        assert read_documents(words, result.out, seen), words

    later = await _make_history(database_url, conn)
    await run(FIRST, "request_status", "--event-id", later, "--why", "it is wrong")
    await folding.fold_all(database_url)
    await _damage(conn)
    for words, arguments, code in CASES[:-AT_LAST]:
        await run(words, *arguments, code=code)
    await _make_trouble(conn)
    async with (
        store.connection(database_url, FOLLOWER) as follower,
        store.connection(database_url, folding_session_name("request_status")) as folder,
    ):
        await follower.execute("SELECT pg_advisory_lock(%s)", [app_lock(store.APP)])
        await follower.execute("SELECT pg_advisory_lock(%s)", [consumer_lock(CONSUMER)])
        await announce_folding(folder, "request_status")
        for words in WITH_TROUBLE:
            await run(words)
    for words, arguments, code in CASES[-AT_LAST:]:
        await run(words, *arguments, code=code)

    documents = [one for words, one in json_documents().items() if words not in READ_ELSEWHERE]
    shapes = {shape for one in documents for shape in one.shapes}
    documented = {f"{shape.__name__}: {key.path}" for shape in shapes for key in keys_of(shape)}
    assert documented - seen == UNSEEN


async def _make_history(url: str, conn: AsyncConnection) -> str:
    """Store and fold events, a quarantined message, a cursor with a gap and a lost commit; return a later event."""
    kinds = (oracle.PENDING_CONSENT, oracle.FAILED, oracle.GRANTED, oracle.DELIVERED)
    await append(conn, *(new_record(kind, PPNUM) for kind in kinds))
    await append(conn, *(new_record(kind, "12300000004") for kind in kinds * 2))
    await append(conn, new_record(oracle.POLL_RESPONSE, PPNUM, options=("yes",)))
    await Appender(conn, store.QUICK, QuarantineLimits(max_rows=1)).append(
        [], rejected=[store.garbage(number) for number in range(3)]
    )
    await store.set_epoch(conn)
    await folding.fold_all(url)
    async with aclosing(consumer(CONSUMER, url, batch_events=1)) as batches:
        for _ in range(2):  # the second one is left unfinished
            await anext(batches)
    await append(conn, later := new_record(oracle.DELIVERED, PPNUM))
    return later.event_id


async def _damage(conn: AsyncConnection) -> None:
    await conn.execute("UPDATE consent_registry SET consent_status = 'denied'")


async def _make_trouble(conn: AsyncConnection) -> None:
    """Let an app be refused, after a gap and a lost commit, and let a projection fail; the clock was wrong as well."""
    now = datetime.now(UTC)
    event_id = new_record().event_id
    await conn.execute("UPDATE eventstore.cursors SET contract = 'chat.external', last_event_id = %s", [event_id])
    await conn.execute("UPDATE eventstore.cursors SET last_received_at = clock_timestamp()")
    epoch = await store.value(conn, "SELECT epoch FROM eventstore.cursors")
    assert isinstance(epoch, int)
    cursor = await cursor_row.load(conn, store.APP, epoch)
    gap = cursor_row.Gap(store.next_ulid(), store.next_ulid(), now, "too old")
    await cursor_row.save_gap(conn, cursor, gap, extends_last=False)
    heads = KnownHeads()
    heads.add(1_000, event_id)
    assert await heads.find_lost(conn, store.APP) is not None
    await cursor_row.save_refusal(conn, store.APP, epoch, "refused: it is wrong", timedelta(hours=1))
    at = await folding.position(conn, "request_status")
    await state_changes.record_failure(
        conn, "request_status", RequestStatus.version, at, "it fails", timedelta(hours=1)
    )
    await conn.execute("UPDATE projections.checkpoints SET redecoded_at = clock_timestamp(), position = position - 1")
    await insert_at(conn, len(await store.positions(conn)) + 1, new_record(), received_in=3600)
