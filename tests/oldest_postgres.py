"""Which tests run on the oldest PostgreSQL besides the newest, and why the others don't.

The oldest runs the tests that exercise SQL and catalogues: tests/integration and tests/migration without the files
below, and tests that are marked ``oldest``. The files below test what doesn't depend on the server: messages over gRPC
and HTTP, and decisions in Python, whose statements other tests send too. ``make test-all`` runs everything on both, and
fails if these tests don't send a statement on the oldest that the product sends on the newest (fix_statements.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDERS = ("integration", "migration")

NEWEST_ONLY = {
    "test_bi_plans.py": "plans of documented queries on a large database; test_bi_answers.py runs them on both",
    "test_credentials_bounded.py": "responses of issuers over HTTP",
    "test_credentials_followed.py": "when tokens are fetched again; the statements are those of every ingest",
    "test_give_up.py": "when a run gives up waiting: clocks in Python",
    "test_http_health.py": "what is not ready: decisions in Python; test_http_metrics.py sends the statements",
    "test_ingest_idle.py": "when a stream counts as idle: clocks in Python",
    "test_ingest_intermediaries.py": "responses of proxies over HTTP/2",
    "test_ingest_refusals.py": "which gRPC status is final",
    "test_ingest_resume.py": "which cursor is sent over gRPC after which end of a stream",
    "test_ingest_retry_refused.py": "when a refused app is called again: clocks in Python",
    "test_ingest_silence.py": "pings and silence of connections",
    "test_ingest_tls.py": "certificates of upstreams",
}


def runs_on_oldest(item: pytest.Item) -> bool:
    """Return whether ``make test`` runs a test on the oldest PostgreSQL."""
    if item.get_closest_marker("oldest"):
        return True
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    return folder in FOLDERS and item.path.name not in NEWEST_ONLY
