"""Reads our revisions from their files: their order, and their text constants.

Every command needs the head revision. Alembic would run each file, and loading Alembic takes a fifth of a second of CPU
time. So the files are parsed here, not run. Tests compare the answers with Alembic's.
"""

from __future__ import annotations

import ast
from functools import cache

from eventstore.resources import migrations_folder


def read_revisions() -> dict[str, object]:
    """Return all revisions that this version of the code has, each with the one before it; None for the first."""
    return {revision: literals["down_revision"] for revision, literals in _files().items()}


def read_text(revision: str, name: str) -> str:
    """Return a text that a revision's file assigns to a name, as a literal.

    Raises:
        LookupError: there is no such revision, or its file has no such text.

    """
    match _files().get(revision, {}).get(name):
        case str(text):
            return text
    raise LookupError(f"revision {revision} has no text {name}")


@cache
def _files() -> dict[str, dict[str, object]]:
    """Return by revision what its file assigns at the top level: the literals, by name."""
    files: dict[str, dict[str, object]] = {}
    for path in sorted((migrations_folder() / "versions").glob("*.py")):
        literals: dict[str, object] = {
            target.id: node.value.value
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        files[str(literals["revision"])] = literals
    return files
