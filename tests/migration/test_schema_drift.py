"""Status reports a schema that was changed by hand, and migrate repairs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection

import psycopg
import pytest
from psycopg import AsyncConnection

from projections.errors import SchemaBroken
from projections.inspecting.read_status import read_status
from projections.migrating.metadata import READ_MODELS, target_metadata
from projections.migrating.migrate import downgrade, upgrade
from projections.migrating.schema_drift import find_drift
from projections.migrating.sqlalchemy_connection import one_session
from projections.read_models.common_columns import VIEWS
from projections.registry import Registry
from tests import folding, store
from tests.fix_full_matrix import stood_for
from tests.migration.test_migrations import shape_seen_in

EVENTS = "ALTER TABLE eventstore.events "
CHANGES = {
    # the result of pg_restore --data-only --disable-triggers
    "triggers not always": (
        EVENTS + "DISABLE TRIGGER ALL; " + EVENTS + "ENABLE TRIGGER ALL",
        "trigger refuse_change_row on eventstore.events isn't ENABLE ALWAYS",
    ),
    "trigger disabled": (
        EVENTS + "DISABLE TRIGGER refuse_change_statement",
        "trigger refuse_change_statement on eventstore.events isn't ENABLE ALWAYS",
    ),
    "trigger dropped": (
        "DROP TRIGGER refuse_change_statement ON eventstore.events",
        "trigger refuse_change_statement on eventstore.events is missing",
    ),
    "trigger weakened": (
        (
            "CREATE OR REPLACE TRIGGER refuse_change_row BEFORE DELETE ON eventstore.events"
            " FOR EACH ROW EXECUTE FUNCTION eventstore.refuse_change()"
        ),
        "trigger refuse_change_row on eventstore.events was changed",
    ),
    "function replaced": (
        (
            "CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RETURN NEW; END'"
        ),
        "function eventstore.refuse_change() was changed",
    ),
    "function's settings reset": (
        "ALTER FUNCTION eventstore.refuse_change() RESET search_path",
        "function eventstore.refuse_change() was changed",
    ),
    "function dropped": (
        "DROP FUNCTION eventstore.redecode(jsonb)",
        "function eventstore.redecode(jsonb) is missing",
    ),
    # the result of a restore without privileges
    "function for everybody": (
        "GRANT EXECUTE ON FUNCTION eventstore.redecode(jsonb) TO PUBLIC",
        "everybody may run function eventstore.redecode(jsonb)",
    ),
    "unique": (
        EVENTS + "DROP CONSTRAINT events_position_key",
        "table eventstore.events has lost unique (position)",
    ),
    "primary key": (
        EVENTS + "DROP CONSTRAINT events_pkey",
        "table eventstore.events has lost primary key (event_id)",
    ),
    "primary key of a read model": (
        "ALTER TABLE request_recipients DROP CONSTRAINT request_recipients_pkey",
        "table public.request_recipients has lost primary key (app, send_request_id, ppnum)",
    ),
    "not null": (EVENTS + "ALTER payload DROP NOT NULL", "column eventstore.events.payload is no longer NOT NULL"),
    "check": (
        EVENTS + "DROP CONSTRAINT events_position_check",
        "table eventstore.events has lost CHECK events_position_check",
    ),
    "check not valid": (
        EVENTS
        + "DROP CONSTRAINT events_position_check; "
        + EVENTS
        + "ADD CONSTRAINT events_position_check CHECK (position > 0) NOT VALID",
        "CHECK events_position_check of eventstore.events isn't validated yet",
    ),
    "unlogged": ("ALTER TABLE eventstore.quarantine SET UNLOGGED", "table eventstore.quarantine is UNLOGGED"),
    "view": ("DROP VIEW eventstore.event_log", "view eventstore.event_log is missing"),
    "numbers of a copied table": (
        (
            "INSERT INTO eventstore.quarantine OVERRIDING SYSTEM VALUE VALUES"
            " (7, 'app', 'chat.external', sha256(''), NULL, 'why', '', now(), now(), 1)"
        ),
        "the next ids of sequence eventstore.quarantine_id_seq are already used in eventstore.quarantine",
    ),
}

SECOND_ROUND = frozenset(
    {"triggers not always", "trigger dropped", "function's settings reset", "function for everybody", "check not valid"}
)
"""Changes of what others change too."""

REPAIRED_THE_SAME_WAY = {
    "triggers not always": "trigger disabled: both triggers are found by one condition and repaired by one statement",
    "function's settings reset": "function replaced: either difference has the function created again",
    "primary key of a read model": "primary key: the key of another table is added by the same statement",
}
"""Changes whose repair another one shows; each is also found and repaired together with others."""


def drift_of(url: str) -> list[str]:
    """Return a sentence for each difference between the schema and the code."""

    async def find() -> list[str]:
        async with store.connection(url) as conn:
            return await drift_seen_in(conn)

    return asyncio.run(find())


async def drift_seen_in(conn: AsyncConnection) -> list[str]:
    """Return what :func:`drift_of` returns, in a session that stays open for more."""
    return [drift.sentence for drift in await find_drift(conn)]


@pytest.mark.newest
@pytest.mark.parametrize(
    "change",
    [
        *(change for change in CHANGES if change not in REPAIRED_THE_SAME_WAY),
        *(case for change, covered_by in REPAIRED_THE_SAME_WAY.items() for case in stood_for(covered_by, change)),
    ],
)
async def test_a_change_is_reported_and_repaired(database_url: str, conn: AsyncConnection, change: str) -> None:
    before = await shape_seen_in(conn)
    statement, sentence = CHANGES[change]
    await conn.execute(statement.encode())
    found = await drift_seen_in(conn)
    assert any(one.startswith(sentence) and one.endswith("; run projections migrate") for one in found), found
    with one_session(database_url):
        upgrade(database_url, projections=())
        assert await drift_seen_in(conn) == []
        # A dropped view's comments are not repaired.
        if change != "view":
            assert await shape_seen_in(conn) == before
        upgrade(database_url, projections=())
    assert await drift_seen_in(conn) == []


@pytest.mark.oldest
@pytest.mark.parametrize("changes", [CHANGES.keys() - SECOND_ROUND, SECOND_ROUND], ids=["first round", "second round"])
def test_many_changes_are_reported_and_repaired_together(database_url: str, changes: Collection[str]) -> None:
    made = [CHANGES[change] for change in CHANGES if change in changes]
    with psycopg.connect(database_url) as conn:
        for statement, _ in made:
            conn.execute(statement.encode())
    found = drift_of(database_url)
    assert [sentence for _, sentence in made if not any(one.startswith(sentence) for one in found)] == []
    upgrade(database_url, projections=())
    assert drift_of(database_url) == []


@pytest.mark.oldest
def test_an_unchanged_schema_has_no_drift(database_url: str) -> None:
    assert drift_of(database_url) == []


def test_all_our_tables_are_checked(database_url: str) -> None:
    named = {table.fullname for metadata in target_metadata for table in metadata.tables.values()}
    with psycopg.connect(database_url) as conn:
        for name in sorted(named):
            conn.execute(f"ALTER TABLE {name} DROP CONSTRAINT {name.partition('.')[2]}_pkey".encode())
        conn.execute("DROP VIEW eventstore.event_log, event_log, consent_history, poll_results, read_model_freshness")
    found = drift_of(database_url)
    for name in named:
        assert any(f"table {name} has lost primary key" in one for one in found), (name, found)
    assert [view for view in VIEWS if not any(f"view public.{view} is missing" in one for one in found)] == []


def test_a_missing_table_of_the_event_store_is_not_created_again(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute("DROP TABLE eventstore.cursors")
    with pytest.raises(SchemaBroken, match=r"^table eventstore.cursors is missing; restore it from a backup$"):
        upgrade(database_url, projections=())


def test_drift_that_cannot_be_repaired_is_reported_and_the_rest_is_repaired(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE eventstore.cursors DROP CONSTRAINT cursors_epoch_check")
        conn.execute("INSERT INTO eventstore.cursors (app, epoch) VALUES ('app', -1)")
        conn.execute(CHANGES["triggers not always"][0].encode())
    with pytest.raises(SchemaBroken, match=r"has lost CHECK cursors_epoch_check, and repairing it failed: .*23514"):
        upgrade(database_url, projections=())
    found = drift_of(database_url)
    assert found == ["CHECK cursors_epoch_check of eventstore.cursors isn't validated yet; run projections migrate"]


@pytest.mark.newest
def test_rows_that_violate_a_new_check_are_kept_and_reported(database_url: str) -> None:
    downgrade(database_url, BEFORE_CHECKS)
    with psycopg.connect(database_url) as conn:
        conn.execute(CHECKPOINT, ["old", -3])
    with pytest.raises(SchemaBroken, match="checkpoints_position_check"):
        upgrade(database_url, projections=())
    with psycopg.connect(database_url) as conn:
        conn.execute("DELETE FROM projections.checkpoints")
    upgrade(database_url, projections=())
    assert drift_of(database_url) == []


BEFORE_CHECKS = "0010"
CHECKPOINT = "INSERT INTO projections.checkpoints (name, version, position, state) VALUES (%s, 1, %s, 'running')"
EVENT = (
    "INSERT INTO eventstore.events (position, event_id, app, contract, event_type, occurred_at, received_at, payload)"
    " VALUES ({}, 'app', 'chat.external', 1, now(), now(), '')"
)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE eventstore.cursors SET holes = '7'",
        "UPDATE eventstore.cursors SET last_event_id = 'x'",
        "UPDATE eventstore.cursors SET epoch = -1",
        "UPDATE eventstore.cursors SET contract = 'other'",
        "UPDATE projections.checkpoints SET position = -1",
        "UPDATE projections.checkpoints SET state = 'happy'",
        EVENT.format("0, '01KE57A22WAXDSJX6FXBCFS5DG'"),
        EVENT.format("1, 'short'"),
        (
            "INSERT INTO eventstore.quarantine (app, contract, sha256, reason, payload, first_seen, last_seen, count)"
            " VALUES ('app', 'chat.external', sha256(''), 'why', '', now(), now(), 0)"
        ),
    ],
)
def test_impossible_values_are_refused(database_url: str, statement: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute("INSERT INTO eventstore.cursors (app) VALUES ('app')")
        conn.execute(CHECKPOINT, ["p", 0])
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(statement.encode())


async def test_status_reports_drift(database_url: str) -> None:
    async with store.connection(database_url) as conn:
        await conn.execute(CHANGES["trigger disabled"][0].encode())
        status = await read_status(conn, Registry({}, {}))
    assert len(status.schema) == 1
    assert json.loads(json.dumps(status.as_dict()))["schema"] == status.schema


@pytest.mark.newest
async def test_a_dropped_read_model_is_created_again_and_needs_a_rebuild(database_url: str) -> None:
    ours = [model() for model in READ_MODELS]
    async with store.connection(database_url) as conn:
        await folding.append(conn, *(folding.new_record() for _ in range(3)))
        await folding.fold_all(database_url)
        await conn.execute("DROP TABLE poll_responses, request_status CASCADE")
        await asyncio.to_thread(upgrade, database_url, projections=ours)
        assert await folding.count_rows(conn, "request_status") == 0
        query = "SELECT name, state FROM projections.checkpoints ORDER BY name"
        states = await (await conn.execute(query)).fetchall()
        assert states == [
            ("consent_registry", "running"),
            ("people", "running"),
            ("poll_tallies", "waiting"),
            ("request_status", "waiting"),
        ]
        await conn.execute("SELECT FROM poll_results")
