"""The lists of files that don't run on the oldest PostgreSQL are right."""

from __future__ import annotations

from pathlib import Path

from tests.oldest_postgres import FOLDERS, NEWEST_ONLY, ONLY_MARKED, TESTS

FILES = {path.name: path for folder in FOLDERS for path in (TESTS / folder).glob("test_*.py")}


def is_marked(path: Path) -> bool:
    return "pytest.mark.oldest" in path.read_text()


def test_every_named_file_exists_and_is_in_one_list() -> None:
    assert sorted({*NEWEST_ONLY, *ONLY_MARKED} - FILES.keys()) == []
    assert sorted(NEWEST_ONLY.keys() & ONLY_MARKED) == []


def test_files_with_marked_tests_are_listed_as_such() -> None:
    assert [name for name in sorted(ONLY_MARKED) if not is_marked(FILES[name])] == []
    assert [name for name in sorted(NEWEST_ONLY) if is_marked(FILES[name])] == []
