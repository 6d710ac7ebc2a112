"""A migration that needs a lock of another session: nobody queues behind it for long, and it names the holder."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from projections.errors import MigrationBlocked
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migrate import downgrade, upgrade
from projections.migrating.schema_revision import head_revision
from tests.migration.test_migrations import shape

READER = "a dashboard"
EARLIER = "0003"
"""The next revision needs a lock on the table of checkpoints, which a reader of a view holds."""


class Told:
    """Collects the reported sentences, and can wait for one."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._heard = threading.Event()

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)
        if READER in sentence:
            self._heard.set()

    def wait(self) -> None:
        assert self._heard.wait(60), self.sentences


def at_an_earlier_revision(url: str) -> None:
    upgrade(url, projections=())
    downgrade(url, EARLIER)


def reading(url: str) -> psycopg.Connection:
    conn = psycopg.connect(url, application_name=READER)
    conn.execute("SELECT * FROM read_model_freshness")
    return conn


def test_it_names_who_holds_the_lock_and_continues_once_it_is_released(empty_database_url: str) -> None:
    at_an_earlier_revision(empty_database_url)
    told = Told()
    with ThreadPoolExecutor(1) as pool, reading(empty_database_url) as reader:
        pid = reader.info.backend_pid
        patience = LockPatience(1.0, report_every=0.0, report=told)
        migrating = pool.submit(upgrade, empty_database_url, projections=(), patience=patience)
        told.wait()
        # A new session waits for one attempt at the most.
        with psycopg.connect(empty_database_url, options="-c lock_timeout=30s") as another:
            another.execute("SELECT * FROM read_model_freshness")
        assert not migrating.done()
        reader.rollback()
        assert migrating.result(60) == (EARLIER, head_revision())
    said = next(one for one in told.sentences if READER in one)
    assert said.startswith(f"a lock that the migration needs is held by {READER} (process {pid}, since 2")
    assert said.endswith(", still trying")


def test_it_gives_up_after_the_given_time_and_changes_nothing(empty_database_url: str) -> None:
    at_an_earlier_revision(empty_database_url)
    before = shape(empty_database_url)
    with reading(empty_database_url), pytest.raises(MigrationBlocked, match=f"gave up after .* held by {READER} "):
        upgrade(empty_database_url, projections=(), patience=LockPatience(0.8, give_up_after=0.1))
    assert shape(empty_database_url) == before
    assert upgrade(empty_database_url, projections=()) == (EARLIER, head_revision())


def test_a_current_schema_needs_no_lock_that_readers_hold(database_url: str) -> None:
    with reading(database_url):
        patience = LockPatience(0.5, give_up_after=0.0)
        assert upgrade(database_url, projections=(), patience=patience) == (head_revision(), head_revision())


def test_repairs_wait_for_readers_too(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE projections.checkpoints DROP CONSTRAINT checkpoints_state_check")
    with reading(database_url), pytest.raises(MigrationBlocked, match=READER):
        upgrade(database_url, projections=(), patience=LockPatience(0.8, give_up_after=0.1))
    upgrade(database_url, projections=())
