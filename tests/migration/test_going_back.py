"""``migrate --down-to`` takes the schema back in one transaction, and lets newer rows wait for a rebuild."""

from __future__ import annotations

import re

import psycopg
import pytest

from eventstore.errors import UsageError
from projections.errors import MigrationRefused
from projections.migrating import go_back as module
from projections.migrating.go_back import EARLIEST, go_back
from projections.migrating.migrate import upgrade
from projections.migrating.schema_revision import head_revision

BEFORE = "0011"


def checkpoints(url: str) -> dict[str, tuple[object, ...]]:
    """Each projection's version, state, position, and advice."""
    with psycopg.connect(url) as conn:
        rows = conn.execute("SELECT name, version, state, position, last_error FROM projections.checkpoints").fetchall()
    return {name: (*values, error and error.rpartition("; ")[2]) for name, *values, error in rows}


def test_rows_that_newer_code_may_have_folded_wait_for_a_rebuild(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EARLIEST", BEFORE)
    with psycopg.connect(database_url) as conn:
        conn.execute("DROP TABLE public.poll_tallies, public.poll_responses CASCADE")
        conn.execute(
            "INSERT INTO projections.checkpoints (name, version, position, state) VALUES"
            " ('request_status', 7, 5, 'running'), ('consent_registry', 1, 6, 'running'),"
            " ('poll_tallies', 7, 5, 'running'), ('mine', 7, 5, 'running')"
        )
    assert go_back(database_url, BEFORE) == (head_revision(), BEFORE)
    assert checkpoints(database_url) == {
        "request_status": (0, "waiting", 5, "run projections rebuild request_status"),
        "consent_registry": (1, "running", 6, None),
        "mine": (7, "running", 5, None),
    }
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE projections.checkpoints SET version = 7, state = 'paused' WHERE name = 'request_status'")
    assert go_back(database_url, BEFORE) == (BEFORE, BEFORE), "nothing to take back"
    assert checkpoints(database_url)["request_status"][:2] == (7, "paused")


@pytest.mark.oldest
def test_a_paused_projection_stays_paused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EARLIEST", BEFORE)
    with psycopg.connect(database_url) as conn:
        conn.execute(
            "INSERT INTO projections.checkpoints (name, version, position, state)"
            " VALUES ('request_status', 7, 5, 'paused')"
        )
    go_back(database_url, BEFORE)
    assert checkpoints(database_url)["request_status"][:2] == (0, "paused")


@pytest.mark.parametrize("revision", [BEFORE, "9999", "base", "head", ""])
def test_it_goes_back_to_a_revision_that_some_version_needs(database_url: str, revision: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"can't go back to revision '{revision}'; possible are {EARLIEST}")):
        go_back(database_url, revision)


def test_it_does_not_go_forward(empty_database_url: str) -> None:
    with pytest.raises(MigrationRefused, match="the database has no schema yet"):
        go_back(empty_database_url, EARLIEST)
    upgrade(empty_database_url, BEFORE)
    with pytest.raises(MigrationRefused, match=f"the database has revision {BEFORE}, which is earlier"):
        go_back(empty_database_url, EARLIEST)
