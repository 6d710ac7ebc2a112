"""Which tests run on the oldest PostgreSQL besides the newest, and why the others don't.

The oldest gets every statement that the product sends, every migration, and what differs between versions: catalogues,
plans, privileges, session settings. It runs

- tests/integration and tests/migration, without the files below and without tests that are marked ``newest``, which
  repeat the statements of others in more situations, or take long,
- and tests anywhere that are marked ``oldest``.

Both marks may also be those of a parameter: ``pytest.param(…, marks=pytest.mark.oldest)``.

``NEWEST_ONLY`` names files that test what doesn't depend on the server (messages over gRPC and HTTP, decisions in
Python), or repeat statements that others send to the oldest. In files of ``ONLY_MARKED``, the tests marked ``oldest``
send all statements of the file that no other file sends; the rest repeats them in other situations. A new test of such
a file runs on the newest alone unless it is marked; a new file runs on both.

``make test-all`` runs everything on both, and fails if the product sends a statement to the newest that these tests
don't send to the oldest (fix_statements.py): mark a test that sends it.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from tests import fix_full_matrix

TESTS = Path(__file__).parent
FOLDERS = ("integration", "migration")

NEWEST_ONLY = {
    # What doesn't depend on the server.
    "test_clock_ahead.py": "clocks in Python; test_as_of and test_quarantine_limits send the statements",
    "test_credentials_bounded.py": "responses of issuers over HTTP",
    "test_credentials_followed.py": "when tokens are fetched again; the statements are those of every ingest",
    "test_export_import.py": "a format; test_hostile_settings and test_quarantine_limits send the statements",
    "test_give_up.py": "when a run gives up waiting: clocks in Python",
    "test_import_checked.py": "checks of a file in Python; test_quarantine_limits sends the statements",
    "test_import_refused.py": "checks of a file in Python; test_quarantine_limits sends the statements",
    "test_ingest_idle.py": "when a stream counts as idle: clocks in Python",
    "test_ingest_intermediaries.py": "responses of proxies over HTTP/2",
    "test_ingest_refusals.py": "which gRPC status is final",
    "test_ingest_resume.py": "which cursor is sent over gRPC after which end of a stream",
    "test_ingest_retry_refused.py": "when a refused app is called again: clocks in Python",
    "test_ingest_silence.py": "pings and silence of connections",
    "test_ingest_streams.py": "messages over gRPC; test_ingest_first_contact and test_ingest_apps send the statements",
    "test_ingest_tls.py": "certificates of upstreams",
    "test_run_until_idle.py": "when a run ends; test_worker_failures and test_hostile_settings send the statements",
    "test_http_health.py": "decisions in Python; test_http_metrics and test_hostile_settings send the statements",
    # Statements that other files send to the oldest, in many rounds.
    "test_append_duplicates.py": "test_append and test_quarantine_limits send the statements",
    "test_append_order.py": "test_append and test_quarantine_limits send the statements",
    "test_append_refused.py": "test_append and test_quarantine_limits send the statements",
    "test_consumers_shown.py": "test_doctor, test_hostile_settings, test_consumer, test_http_metrics send them",
    "test_doctor_erasures.py": "test_stays_erased and test_doctor send the statements",
    "test_name_conflicts.py": "test_user_tables and test_schema_drift send the statements",
    "test_on_partitions.py": "test_partitioned_log sends the statements",
    "test_poll_folds.py": "test_rebuild sends the statements",
    "test_read.py": "test_append_lock and test_append send the statements",
    "test_rebuild_disturbed.py": "test_rebuild, test_as_of and test_checkpoint_ahead send the statements",
    "test_rebuild_meanwhile.py": "test_verify sends the statements",
    "test_rebuild_unnoticed.py": "test_rebuild and test_worker_failures send the statements",
    "test_redecode.py": "test_hostile_settings and test_rebuild_runs send the statements",
    "test_transfer_beside_others.py": "test_quarantine_limits, test_append_lock and test_fencing send the statements",
    "test_worker.py": "test_verify and test_worker_failures send the statements",
}

ONLY_MARKED = frozenset(
    {
        "test_append_lock.py",
        "test_archive_partitions.py",
        "test_archived_events.py",
        "test_as_of.py",
        "test_checkpoint_ahead.py",
        "test_compared_ranges.py",
        "test_consumer.py",
        "test_control.py",
        "test_docs_projections.py",
        "test_doctor.py",
        "test_erase_archived.py",
        "test_erase_beside_others.py",
        "test_event_search.py",
        "test_explain.py",
        "test_fencing.py",
        "test_fold_budget.py",
        "test_fold_function.py",
        "test_going_back.py",
        "test_ids_of_partitions.py",
        "test_ingest_apps.py",
        "test_ingest_first_contact.py",
        "test_ingest_reset.py",
        "test_kit.py",
        "test_kit_shrinks.py",
        "test_migrate_locks.py",
        "test_migrations.py",
        "test_partitioned_log.py",
        "test_python_projection.py",
        "test_quarantine_limits.py",
        "test_quarantine_retry.py",
        "test_rebuild.py",
        "test_rebuild_runs.py",
        "test_rebuild_slices.py",
        "test_status.py",
        "test_status_client.py",
        "test_stays_erased.py",
        "test_user_tables.py",
        "test_verify.py",
        "test_version_change.py",
        "test_worker_failures.py",
    }
)


def may_run_on_oldest(function: pytest.Item) -> bool:
    """Return whether ``make test`` runs a test on the oldest PostgreSQL, with some of its parameters at least."""
    given = (mark.args[1] for mark in function.iter_markers("parametrize"))
    sets = chain.from_iterable(each for each in given if isinstance(each, list | tuple))
    marks = chain.from_iterable(each.marks for each in sets if isinstance(each, pytest.ParameterSet))
    return runs_on_oldest(function) or any(mark.name == "oldest" for mark in marks)


def runs_on_oldest(item: pytest.Item) -> bool:
    """Return whether ``make test`` runs a test, with the item's parameters, on the oldest PostgreSQL."""
    if item.get_closest_marker(fix_full_matrix.MARK):
        return False
    if item.get_closest_marker("oldest"):
        return True
    if item.get_closest_marker("newest"):
        return False
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    return folder in FOLDERS and item.path.name not in {*NEWEST_ONLY, *ONLY_MARKED}
