"""Tests of a log that is one table, run on a partitioned one, in partitions of three events that batches cross."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_append_duplicates import (
    test_a_batch_whose_commit_is_unknown_is_appended_again,
    test_an_event_that_is_stored_already_is_a_duplicate,
    test_an_id_that_is_stored_under_another_app_is_refused_and_nothing_is_written,
    test_batches_are_probed_until_one_is_clean_and_again_after_a_copy_that_hits_a_duplicate,
    test_different_bytes_under_a_stored_id_are_quarantined_and_the_first_stays,
    test_the_other_contracts_bytes_with_equal_values_are_a_duplicate,
)
from tests.integration.test_append_order import test_concurrent_appends_of_the_same_events_store_each_once
from tests.integration.test_append_refused import (
    test_a_writer_that_ignores_the_append_lock_causes_an_error_and_loses_no_event,
    test_several_events_that_postgres_refuses_are_all_quarantined,
)
from tests.integration.test_import_refused import test_an_event_that_is_stored_at_another_position_is_refused

__all__ = [
    "test_a_batch_whose_commit_is_unknown_is_appended_again",
    "test_a_writer_that_ignores_the_append_lock_causes_an_error_and_loses_no_event",
    "test_an_event_that_is_stored_already_is_a_duplicate",
    "test_an_event_that_is_stored_at_another_position_is_refused",
    "test_an_id_that_is_stored_under_another_app_is_refused_and_nothing_is_written",
    "test_batches_are_probed_until_one_is_clean_and_again_after_a_copy_that_hits_a_duplicate",
    "test_concurrent_appends_of_the_same_events_store_each_once",
    "test_different_bytes_under_a_stored_id_are_quarantined_and_the_first_stays",
    "test_several_events_that_postgres_refuses_are_all_quarantined",
    "test_the_other_contracts_bytes_with_equal_values_are_a_duplicate",
]


pytestmark = pytest.mark.partitioned(3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"
