"""A migration waits for another session's lock: nobody queues behind it for long, and it names the holder."""

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
"""The next revision needs a lock on the table of checkpoints; a reader of a view holds a conflicting lock."""


class Reports:
    """Collects reported sentences, and waits for one that names the reader."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._reader_named = threading.Event()

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)
        if READER in sentence:
            self._reader_named.set()

    def wait(self) -> None:
        assert self._reader_named.wait(60), self.sentences


def reader_of_view(url: str) -> psycopg.Connection:
    conn = psycopg.connect(url, application_name=READER)
    conn.execute("SELECT * FROM read_model_freshness")
    return conn


def test_it_names_the_holder_of_the_lock_and_continues_once_it_is_released(database_url: str) -> None:
    downgrade(database_url, EARLIER)
    reports = Reports()
    with ThreadPoolExecutor(1) as pool, reader_of_view(database_url) as reader:
        pid = reader.info.backend_pid
        patience = LockPatience(1.0, report_every=0.0, report=reports)
        migrating = pool.submit(upgrade, database_url, projections=(), patience=patience)
        reports.wait()
        # A new session waits for at most one attempt of the migration.
        with psycopg.connect(database_url, options="-c lock_timeout=30s") as another:
            another.execute("SELECT * FROM read_model_freshness")
        assert not migrating.done()
        reader.rollback()
        assert migrating.result(60) == (EARLIER, head_revision())
    sentence = next(one for one in reports.sentences if READER in one)
    assert sentence.startswith(f"a lock that the migration needs is held by {READER} (process {pid}, since 2")
    assert sentence.endswith(", still trying")


def test_it_gives_up_after_the_given_time_and_changes_nothing(database_url: str) -> None:
    downgrade(database_url, EARLIER)
    before = shape(database_url)
    with (
        reader_of_view(database_url),
        pytest.raises(MigrationBlocked, match=f"gave up after .* held by {READER} "),
    ):
        upgrade(database_url, projections=(), patience=LockPatience(0.8, give_up_after=0.1))
    assert shape(database_url) == before
    assert upgrade(database_url, projections=()) == (EARLIER, head_revision())


def test_a_current_schema_needs_no_lock_that_readers_hold(database_url: str) -> None:
    with reader_of_view(database_url):
        patience = LockPatience(0.5, give_up_after=0.0)
        assert upgrade(database_url, projections=(), patience=patience) == (head_revision(), head_revision())


@pytest.mark.oldest
def test_repairs_wait_for_readers_too(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE projections.checkpoints DROP CONSTRAINT checkpoints_state_check")
    with reader_of_view(database_url), pytest.raises(MigrationBlocked, match=READER):
        upgrade(database_url, projections=(), patience=LockPatience(0.8, give_up_after=0.1))
    upgrade(database_url, projections=())
