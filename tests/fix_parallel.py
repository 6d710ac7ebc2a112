"""Hooks for tests in several processes: long tests begin first, and what starts servers of its own runs one at a time.

Each process has servers, databases and a fork server of its own, so tests share nothing but the machine. The order is
the same in all processes, which pytest-xdist needs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TIERS = ("fault", "property", "acceptance", "migration", "integration", "unit")
"""From the longest tests to the shortest, so that no process is left with a long one at the end."""

SERVERS_OF_THEIR_OWN = {
    "test_db_command.py": "starts and stops embedded servers through the command",
    "test_embedded.py": "starts many embedded servers at once, and kills them",
    "test_embedded_said.py": "starts embedded servers through the command",
    "test_log_goes_back.py": "starts primaries and standbys, and lets them crash",
    "test_translated_messages.py": "makes a cluster with another language",
}
"""Files whose tests load the machine by servers besides the two of each process: two of them at once would take most of
the memory of a small machine, and the waits for servers to start are the longest of the suite."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SERVERS_OF_THEIR_OWN:
            item.add_marker(pytest.mark.xdist_group("servers of their own"))
    if config.getoption("dist", "no") != "no" or hasattr(config, "workerinput"):
        items.sort(key=_tier)


def _tier(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return TIERS.index(folder) if folder in TIERS else len(TIERS)
