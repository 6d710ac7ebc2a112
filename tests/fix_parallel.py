"""Hooks for tests in several processes: long tests begin first, and tests that start their own servers run one by one.

Each process has its own servers, databases and fork server, so tests share only the machine. The order of tests is the
same in all processes: pytest-xdist requires that.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

TIERS = ("fault", "property", "acceptance", "migration", "integration", "unit")
"""From the longest tests to the shortest, so that no process begins a long one at the end."""

SERVERS_OF_THEIR_OWN = {
    "test_db_command.py": "starts and stops embedded servers through the command",
    "test_doctor_command.py": "starts a server with settings of production, and restarts it as a standby",
    "test_embedded.py": "starts many embedded servers at once, and kills them",
    "test_embedded_messages.py": "starts embedded servers through the command",
    "test_erased_everywhere.py": "starts a server whose files it searches",
    "test_read_replica.py": "starts a primary and a standby",
    "test_database_loses_events.py": "starts primaries and standbys, and lets them crash",
    "test_translated_messages.py": "starts a server with another language",
}
"""Files whose tests start servers besides the two of each process. Two at once would use most of the memory of a
small machine, and servers would take too long to start."""

NEW_OBJECTS = 20_000
"""The garbage collector runs when so many more objects exist than before; Python's own value is 700."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SERVERS_OF_THEIR_OWN:
            item.add_marker(pytest.mark.xdist_group("servers of their own"))
    if config.getoption("dist", "no") != "no" or hasattr(config, "workerinput"):
        items.sort(key=_tier)


def pytest_collection_finish() -> None:
    # The items and modules stay until the end: the garbage collector need not look at them again. A test makes little
    # garbage, and with the usual value a tenth of the CPU time would go into looking for it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def _tier(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return TIERS.index(folder) if folder in TIERS else len(TIERS)
