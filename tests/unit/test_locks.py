"""Advisory locks: one module names all of them, and their numbers never change."""

from __future__ import annotations

import re
from pathlib import Path

import eventstore
import projections
from eventstore import locks

PACKAGES = [Path(next(iter(package.__path__))) for package in (eventstore, projections)]
CALLS = re.compile(r"pg_(try_)?advisory|hashtext")
NUMBERS = {
    "append": -6564740528868614358,
    "import": -2864281349021017373,
    "migrate": -1795154979227191191,
    "shadow": 4274541460322754087,
    "app": 5685903599952870114,
    "rebuild": 6577259226501964008,
    "fold": -7546082093853787679,
}


def test_only_one_module_spells_an_advisory_lock() -> None:
    spelled = {path for package in PACKAGES for path in package.rglob("*.py") if CALLS.search(path.read_text())}
    assert spelled == {PACKAGES[0] / "locks.py"}


def test_a_number_is_the_same_in_every_version() -> None:
    """During an upgrade, processes of two versions run side by side and must exclude each other."""
    assert {
        "append": locks.APPEND_LOCK,
        "import": locks.IMPORT_LOCK,
        "migrate": locks.MIGRATE_LOCK,
        "shadow": locks.SHADOW_LOCK,
        "app": locks.app_lock("shop"),
        "rebuild": locks.rebuild_lock("poll_tallies"),
        "fold": locks.fold_lock("poll_tallies"),
    } == NUMBERS
