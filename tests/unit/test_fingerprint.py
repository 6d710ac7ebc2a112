"""The fingerprint of a Python fold: other code anywhere in its package changes it."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import Table

from projections.rebuilding.fingerprint import compute_fingerprint
from tests import rebuilding

FOLD = """
from projections.folding.python_projection import PythonProjection
{imports}
class Mine(PythonProjection):
    name = "mine"
    version = 1
    def handle(self, event):
        {lazily}
        return {result}
"""
Fingerprint = Callable[..., str]


@pytest.fixture
def of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fingerprint:
    """Return a function that writes a package of a fold and other modules, and returns the fold's fingerprint."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def made(imports: str, lazily: str = "pass", result: str = "[]", **modules: str) -> str:
        folder = tmp_path / "mypackage"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
        modules["folds"] = FOLD.format(imports=imports, lazily=lazily, result=result)
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        linecache.clearcache()
        module = importlib.import_module("mypackage.folds")

        class Mine(module.Mine):  # type: ignore[name-defined, misc]
            handles: ClassVar[frozenset[int]] = rebuilding.OptOuts.handles
            tables: ClassVar[tuple[Table, ...]] = rebuilding.OptOuts.tables
            partition_by: ClassVar[Iterable[str]] = rebuilding.OptOuts.partition_by

        Mine.__module__ = module.__name__
        return compute_fingerprint(Mine(), [])

    return made


@pytest.mark.parametrize(
    ("imports", "lazily"),
    [
        ("from mypackage import words", "pass"),
        ("from mypackage.words import WORDS", "pass"),
        ("from .words import WORDS as SAID", "pass"),
        ("from .words import *", "pass"),
        ("import mypackage.words as others", "pass"),
        ("", "from mypackage.words import WORDS"),
        ("from .between import WORDS", "pass"),
        ("from . import between", "pass"),
    ],
)
def test_a_module_that_a_fold_imports_in_any_way_changes_the_fingerprint(
    of: Fingerprint, imports: str, lazily: str
) -> None:
    between = "from .words import WORDS"
    first, again, changed = (
        of(imports, lazily, words=f"WORDS = {words!r}", between=between) for words in ("a", "a", "b")
    )
    assert first == again
    assert again != changed


def test_a_module_that_a_fold_does_not_import_changes_nothing(of: Fingerprint) -> None:
    assert of("import json", other="NUMBER = 1") == of("import json", other="NUMBER = 2")


def test_the_fold_itself_changes_the_fingerprint(of: Fingerprint) -> None:
    assert of("", result="[]") != of("", result="[1]")
