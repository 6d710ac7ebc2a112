"""A projection's statements are compiled once for its class, and again when something that they depend on differs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import Executable, insert, literal, select

from projections.folding.compiled_once import compile_once
from projections.folding.window_fold import SqlFold
from projections.projection import Window
from tests.folding import Watched, watched


class Counted(Watched):
    """Counts how often its fold is asked for its statements."""

    asked = 0

    def fold(self, window: Window) -> Sequence[Executable]:
        type(self).asked += 1
        return super().fold(window)


def test_instances_of_a_class_share_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "asked", 0)
    first, second = SqlFold(Counted()), SqlFold(Counted())
    assert Counted.asked == 1
    assert vars(first) == vars(second)
    SqlFold(Counted(), {"public": "elsewhere"})
    assert Counted.asked == 2, "other schemas give other statements"


def test_another_fold_version_or_state_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(_: Watched, window: Window) -> Sequence[Executable]:
        e = window.events
        rows = select(e.c.app, e.c.event_id, e.c.ppnum, literal(7))
        return [insert(watched).from_select(["app", "event_id", "ppnum", "value"], rows)]

    before = vars(SqlFold(Watched()))
    monkeypatch.setattr(Watched, "fold", other)
    after = vars(SqlFold(Watched()))
    assert after != before
    results = iter(range(9))
    assert [compile_once(Watched(), "test", lambda: next(results)) for _ in range(2)] == [0, 0]
    monkeypatch.setattr(Watched, "version", 7)
    assert compile_once(Watched(), "test", lambda: next(results)) == 1
    with_state = Watched()
    vars(with_state)["limit"] = 3
    assert [compile_once(with_state, "test", lambda: next(results)) for _ in range(2)] == [2, 3]


def test_an_error_is_not_kept() -> None:
    def fail() -> int:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised above
        compile_once(Watched(), "fails at first", fail)
    assert compile_once(Watched(), "fails at first", lambda: 1) == 1
