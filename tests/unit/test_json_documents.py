"""Every command has ``--json`` with a documented shape, or gives the reason why not; docs/api.md lists every key."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from projections.cli.shared.json_documents import JsonDocuments
from projections.json_value import json_value
from tests.json_documents import read_documents
from tools import json_tables
from tools.json_shapes import find_deviations, keys_of
from tools.json_tables import DocumentedCommand, documented_commands


class Colour(StrEnum):
    RED = "red"


@dataclass
class Inner:
    """An object.

    Attributes:
        at: when it
            happened: then.
        share: how much | of it; None for all.

    """

    at: datetime
    share: float | None


class Outer(TypedDict):
    """A document.

    Attributes:
        kind: which.
        colour: its colour.
        inner: the object.
        several: more of them.
        by_name: by ``name``.
        row: a row.
        extra: may be missing.

    """

    kind: Literal["a", "b"]
    colour: Colour
    inner: Inner
    several: list[Inner] | None
    by_name: dict[str, Inner]
    row: dict[str, Any]
    extra: NotRequired[int]


INNER = {"at": "2026-01-01T00:00:00+00:00", "share": 1}
OUTER = {"kind": "a", "colour": "red", "inner": INNER, "several": [INNER], "by_name": {"x": INNER}, "row": {"y": 1}}


@pytest.mark.parametrize("command", [*documented_commands()], ids=lambda one: " ".join(one.words))
def test_every_command_has_json_or_gives_a_reason(command: DocumentedCommand) -> None:
    assert command.documents is not None, (
        "decorate it, below @handles_errors, with @writes_json(SHAPE) and give it as_json: JsonOption = False, "
        "or with @writes_text('why not'); see projections/cli/shared/json_documents.py"
    )
    assert command.has_option == isinstance(command.documents, JsonDocuments)


def test_the_page_has_every_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["json_tables.py", "--check"])
    assert json_tables.main() == 0, "run make docs"
    page = tmp_path / "api.md"
    page.write_text(json_tables.PAGE.read_text().replace("| `head` | integer |", "| `head` | text |"))
    monkeypatch.setattr(json_tables, "PAGE", page)
    monkeypatch.setattr(json_tables, "ROOT", tmp_path)
    assert json_tables.main() == 1
    monkeypatch.setattr(sys, "argv", ["json_tables.py"])
    assert json_tables.main() == 0
    assert "| `head` | integer |" in page.read_text()


def test_the_keys_of_a_shape_have_types_and_meanings() -> None:
    assert [tuple(key) for key in keys_of(Outer)] == [
        ("kind", "`a` or `b`", "which."),
        ("colour", "`red`", "its colour."),
        ("inner", "object", "the object."),
        ("inner.at", "time", "when it happened: then."),
        ("inner.share", "number or null", "how much \\| of it; null for all."),
        ("several", "list of object or null", "more of them."),
        ("several[].at", "time", "when it happened: then."),
        ("several[].share", "number or null", "how much \\| of it; null for all."),
        ("by_name", "object of object", "by `name`."),
        ("by_name.*.at", "time", "when it happened: then."),
        ("by_name.*.share", "number or null", "how much \\| of it; null for all."),
        ("row", "object", "a row."),
        ("extra", "integer; may be missing", "may be missing."),
    ]


def test_a_key_without_a_meaning_is_refused() -> None:
    class Undescribed(TypedDict):
        key: int

    with pytest.raises(SystemExit, match=r"Undescribed\.key has no meaning"):
        list(keys_of(Undescribed))


def test_a_document_of_its_shape_has_no_deviation() -> None:
    seen: set[str] = set()
    assert list(find_deviations({**OUTER, "extra": 1}, Outer, seen)) == []
    assert seen == {key.path for key in keys_of(Outer)}
    assert list(find_deviations({**OUTER, "several": None}, Outer, set())) == []


@pytest.mark.parametrize(
    ("changed", "deviation"),
    [
        ({"kind": "c"}, "kind: not of type `a` or `b`: 'c'"),
        ({"colour": "blue"}, "colour: not of type `red`: 'blue'"),
        ({"new": 1}, "new: not in Outer"),
        ({"extra": None}, "extra: not of type integer; may be missing: None"),
        ({"extra": True}, "extra: not of type integer; may be missing: True"),
        ({"inner": None}, "inner: not of type object: None"),
        ({"several": INNER}, f"several: not of type list of object or null: {INNER}"),
        ({"several": [INNER, {**INNER, "more": 1}]}, "several[].more: not in Inner"),
        (
            {"by_name": {"x": {**INNER, "at": "2026-01-01T00:00:00"}}},
            "by_name.*.at: not of type time: '2026-01-01T00:00:00'",
        ),
        ({"by_name": {"x": {"at": INNER["at"]}}}, "by_name.*.share: missing"),
        ({"inner": {**INNER, "share": "1"}}, "inner.share: not of type number or null: '1'"),
    ],
)
def test_a_deviation_is_found(changed: dict[str, Any], deviation: str) -> None:
    assert list(find_deviations({**OUTER, **changed}, Outer, set())) == [deviation]


def test_a_document_that_no_shape_has_fails() -> None:
    with pytest.raises(AssertionError, match=r"projections pause: .*'states: not in ChangedState'"):
        read_documents("pause", '{"name": "a", "state": "paused", "states": 1}')


def test_values_become_json_without_loss() -> None:
    at = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert json_value(Inner(at, float("nan"))) == {"at": "2026-01-01T00:00:00+00:00", "share": "nan"}
    assert json_value((1, 1.5, True, None, "é", Colour.RED)) == [1, 1.5, True, None, "é", "red"]
    assert json_value({"a": Decimal("1.50"), "b": b"\x00\xff", "c": at.date()}) == {
        "a": "1.50",
        "b": "\\x00ff",
        "c": "2026-01-01",
    }
    assert json_value(datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)) == "2026-01-01T00:00:00"
