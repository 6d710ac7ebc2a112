"""Hooks for ``--full-matrix``: without it, cases are left out that others stand for.

``make test`` runs each test with the parameters that reach different code. ``make test-all`` runs every test with all
of its parameters, on both versions of PostgreSQL. A case that only ``make test-all`` runs has a mark whose argument
says which case of ``make test`` runs the same code, and what differs::

    [ConsentRegistry, *stood_for("ConsentRegistry is rebuilt by windows too", RequestStatus)]

Which tests run on the oldest PostgreSQL is chosen in tests/oldest_postgres.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

OPTION = "--full-matrix"
MARK = "full_matrix"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="run every test with all parameters, on both PostgreSQL servers")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(covered_by): left out by make test, see tests/fix_full_matrix.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if not is_stood_for(item)]
    if not config.getoption(OPTION):
        items[:] = others


def stood_for(covered_by: str, *cases: object) -> list[pytest.ParameterSet]:
    """Return parameters that other cases stand for.

    Args:
        covered_by: which cases of ``make test`` run the same code, and what differs.
        cases: the value of each case, or a tuple of its values.

    """
    mark = getattr(pytest.mark, MARK)(covered_by)
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark) for case in cases]


def in_turns(
    first: Sequence[tuple[object, ...]], second: Sequence[tuple[object, ...]], covered_by: str
) -> list[pytest.ParameterSet]:
    """Return all pairs of two kinds of parameters; in ``make test`` each of the first has the second ones in turns."""
    pairs = [(i, j, (*one, *other)) for i, one in enumerate(first) for j, other in enumerate(second)]
    kept = [pytest.param(*values) for i, j, values in pairs if j == i % len(second)]
    return [*kept, *stood_for(covered_by, *(values for i, j, values in pairs if j != i % len(second)))]


def is_stood_for(item: pytest.Item) -> bool:
    """Return whether another case stands for this one; a mark that doesn't say which is refused."""
    mark = item.get_closest_marker(MARK)
    if mark is not None and not (mark.args and mark.args[0]):
        raise pytest.UsageError(f"{item.nodeid}: say in the mark {MARK} which other case covers it")
    return mark is not None
