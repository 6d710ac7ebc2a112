"""Hooks for ``--full-matrix``: without it, cases are left out that others stand for.

``make test`` runs each test with the parameters that reach different code. ``make test-all`` runs every test with all
of its parameters, on both versions of PostgreSQL. A case that only ``make test-all`` runs has a mark whose argument
says which case of ``make test`` runs the same code, and what differs::

    pytest.param(RequestStatus, marks=pytest.mark.full_matrix("ConsentRegistry is rebuilt by windows too"))

Which tests run on the oldest PostgreSQL is chosen in tests/oldest_postgres.py.
"""

from __future__ import annotations

import pytest

OPTION = "--full-matrix"
MARK = "full_matrix"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="run every test with all parameters, on both PostgreSQL servers")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(covered_by): left out by make test, see tests/fix_full_matrix.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if not stood_for(item)]
    if not config.getoption(OPTION):
        items[:] = others


def stood_for(item: pytest.Item) -> bool:
    """Return whether another case stands for this one; a mark that doesn't say which is refused."""
    mark = item.get_closest_marker(MARK)
    if mark is not None and not (mark.args and mark.args[0]):
        raise pytest.UsageError(f"{item.nodeid}: say in the mark {MARK} which other case covers it")
    return mark is not None
