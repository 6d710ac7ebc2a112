"""A case that another one stands for has a mark that says so; which it is, is said too."""

from __future__ import annotations

import pytest

from tests.fix_full_matrix import MARK, in_turns, is_stood_for, stood_for


def case(request: pytest.FixtureRequest, *marks: pytest.MarkDecorator) -> pytest.Item:
    """Return a test that is collected, but not run."""
    item = pytest.Function.from_parent(request.node.parent, name="test_it", callobj=lambda: None)
    for mark in marks:
        item.add_marker(mark)
    return item


def test_another_case_stands_for_one_with_the_mark(request: pytest.FixtureRequest) -> None:
    assert not is_stood_for(case(request))
    assert not is_stood_for(case(request, pytest.mark.oldest))
    assert is_stood_for(case(request, pytest.mark.full_matrix("the case of two slices covers it")))


@pytest.mark.parametrize("arguments", [(), ("",)])
def test_a_mark_that_names_no_other_case_is_refused(request: pytest.FixtureRequest, arguments: tuple[str, ...]) -> None:
    with pytest.raises(pytest.UsageError, match=f"test_it: say in the mark {MARK} which other case covers it"):
        is_stood_for(case(request, pytest.mark.full_matrix(*arguments)))


def test_cases_have_the_mark_and_their_values() -> None:
    assert [one.values for one in stood_for("a covers it", 1, (2, 3))] == [(1,), (2, 3)]
    pairs = in_turns([("a",), ("b",), ("c",)], [(1,), (2,)], "the other number covers it")
    assert [one.values for one in pairs if not one.marks] == [("a", 1), ("b", 2), ("c", 1)]
    assert [one.values for one in pairs if one.marks] == [("a", 2), ("b", 1), ("c", 2)]


def test_marked_cases_run_only_if_all_cases_are_asked_for(request: pytest.FixtureRequest) -> None:
    marked = [item for item in request.session.items if item.get_closest_marker(MARK)]
    assert not marked or request.config.getoption("--full-matrix")
