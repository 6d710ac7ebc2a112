"""docs/design.md maps every module, table and advisory lock; links and paths on all pages lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore import locks
from projections.migrating.metadata import target_metadata
from tools import module_map

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PATH = re.compile(r"`((?:eventstore|projections|tests|migrations|tools|proto|benchmarks)/[\w/.-]*)(?!\*)`")
NOT_YET = {
    "eventstore/serve/",
    "migrations/versions/NNNN_recipient_contract.py",
}
"""Planned packages, and the recipe's example."""
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]+))?\)")


def test_every_module_is_in_the_map_and_the_map_has_no_others() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "module_map.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_a_module_missing_from_the_map_is_printed_as_the_line_to_add(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "design.md"
    line = next(line for line in PAGE.splitlines() if line.startswith("  redecode "))
    page.write_text(PAGE.replace(line, line.replace("redecode", "absent  ", 1)))
    monkeypatch.setattr(module_map, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["module_map.py", "--check"])
    assert module_map.main() == 1
    printed = capsys.readouterr().err
    assert module_map.modules()["eventstore.redecode"] in printed
    assert "remove eventstore.absent" in printed
    monkeypatch.setattr(sys, "argv", ["module_map.py"])
    assert module_map.main() == 0
    assert module_map.mapped_modules(page.read_text()) == list(module_map.modules())


def test_every_table_of_ours_is_on_the_page() -> None:
    tables = [table.fullname for metadata in target_metadata for table in metadata.tables.values()]
    assert len(tables) >= 12
    assert [name for name in tables if f"`{name.removeprefix('public.')}`" not in PAGE] == []


def test_every_advisory_lock_is_on_the_page() -> None:
    names = [
        name
        for name, value in vars(locks).items()
        if name.lower().endswith("_lock") and (isinstance(value, int) or callable(value))
    ]
    assert len(names) >= 7
    assert [name for name in names if not re.search(rf"^\| `{name}[`(]", PAGE, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_on_a_page_exist(page: Path) -> None:
    paths = {path for path in PATH.findall(page.read_text()) if "NAME" not in path and path not in NOT_YET}
    missing = [path for path in paths if not ((ROOT / path).exists() or (ROOT / f"{path}.py").exists())]
    assert sorted(missing) == []


def test_planned_packages_do_not_exist_yet_and_are_on_the_page() -> None:
    page = (ROOT / "docs" / "where-to-add.md").read_text()
    assert [path for path in NOT_YET if path not in page] == []
    assert [path for path in NOT_YET if (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_existing_files_and_headings(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in heading_anchors(file)):
            broken.append(f"{target}#{anchor}" if anchor else target)
    assert broken == []


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub generates them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
