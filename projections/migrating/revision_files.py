"""Reads our revisions from their files: their order, and their text constants.

Every command needs the head revision. Alembic would run each file, and loading Alembic takes a fifth of a second of CPU
time. So the files aren't run: their order is read by pattern, and a file is parsed when one of its texts is needed.
Tests compare the answers with Alembic's.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from eventstore.resources import migrations_folder

_ORDER = re.compile(r'^revision = "(?P<revision>\w+)"\ndown_revision = (?:None|"(?P<before>\w+)")$', re.MULTILINE)


class _File(NamedTuple):
    """The file of a revision; ``before`` is the revision before it, None for the first."""

    path: Path
    before: str | None


def read_revisions() -> dict[str, str | None]:
    """Return all revisions that this version of the code has, each with the one before it; None for the first."""
    return {revision: file.before for revision, file in _files().items()}


def read_text(revision: str, name: str) -> str:
    """Return a text that a revision's file assigns to a name, as a literal.

    Raises:
        LookupError: there is no such revision, or its file has no such text.

    """
    file = _files().get(revision)
    match file and _literals(file.path).get(name):
        case str(text):
            return text
    raise LookupError(f"revision {revision} has no text {name}")


@cache
def _files() -> dict[str, _File]:
    found = {}
    for path in sorted((migrations_folder() / "versions").glob("*.py")):
        order = _ORDER.search(path.read_text())
        if order is None:
            raise ValueError(f"{path.name} doesn't assign revision and down_revision, one after the other")
        found[order["revision"]] = _File(path, order["before"])
    return found


@cache
def _literals(path: Path) -> dict[str, object]:
    """Return what a file assigns at the top level: the literals, by name."""
    return {
        target.id: node.value.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
