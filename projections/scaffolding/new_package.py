"""Makes a package with one read model: its declaration, a test that passes, pyproject.toml and a README.

Invariants. The folder appears when it is complete, or not at all; nothing that exists is changed. The name is one that
nothing installed has: no projection, no table of one, no module.
"""

from __future__ import annotations

import keyword
import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from string import Template

from eventstore.errors import UsageError
from projections.folding.sql_text import DIALECT
from projections.projection import SHADOW_POSITIONS
from projections.read_models.common_columns import VIEWS
from projections.registry import GROUP, find_projections
from projections.rules import NAME, NAME_RULE

TEMPLATES = Path(__file__).parent / "templates"


class PackageKind(StrEnum):
    """How the read model of a new package is written."""

    BLOCKS = "blocks"
    SQL = "sql"
    PYTHON = "python"


_REQUIREMENTS = {PackageKind.SQL: "projections-engine[sql]"}
_DECLARATIONS: Mapping[PackageKind, Collection[str]] = {
    PackageKind.BLOCKS: ("blocks.py",),
    PackageKind.SQL: ("sql.py", "sql.sql"),
    PackageKind.PYTHON: ("python.py",),
}
_TAKEN_IN_TEMPLATES = {
    *("Annotated", "BlockProjection", "Event", "EventType", "Iterable", "LastDelivery"),
    *("ProjectionKit", "PythonProjection"),
}


@dataclass(frozen=True, slots=True)
class NewPackage:
    """A package that was made.

    Attributes:
        name: the read model's name, which is also the folder's and the module's.
        kind: how the read model is written.
        folder: the folder, as it was asked for.
        files: the paths of its files in that folder.
        edit: the file that declares the read model.

    """

    name: str
    kind: PackageKind
    folder: Path
    files: tuple[str, ...]
    edit: str


def make_package(name: str, kind: PackageKind, parent: Path) -> NewPackage:
    """Make a package in a new folder, which has the read model's name.

    Raises:
        UsageError: the name can't be used, or the folder exists; the message says what to change.
        OSError: the folder can't be written.

    """
    _check_form(name)
    folder = parent / name
    if os.path.lexists(folder):
        raise UsageError(f"{folder} already exists; choose another name or another folder")
    _check_not_taken(name)
    files = _files_of(name, kind)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as made:
        whole = Path(made) / name
        whole.mkdir()
        for path, text in files.items():
            (whole / path).write_text(text, encoding="utf-8")
        whole.rename(folder)
    edit = f"{name}.sql" if kind is PackageKind.SQL else f"{name}.py"
    return NewPackage(name, kind, folder, tuple(files), edit)


def _check_form(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} can't be the name of a read model: {NAME_RULE}, such as daily_costs")
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of Python, so no module can have this name; choose another one")
    if name in DIALECT.preparer.reserved_words:
        raise UsageError(f"{name!r} is a word of SQL, so queries would have to quote this name; choose another one")


def _check_not_taken(name: str) -> None:
    if name in entry_points(group=GROUP).names:
        raise UsageError(f"a projection named {name!r} is installed already; choose another name")
    owners = {table.name: one.name for one in find_projections().projections.values() for table in one.tables}
    if name in owners:
        raise UsageError(f"{name!r} is a table of the projection {owners[name]}; choose another name")
    if name in VIEWS or name == SHADOW_POSITIONS:
        raise UsageError(f"{name!r} is the name of a table or view of ours; choose another name")
    if find_spec(name) is not None:
        raise UsageError(f"a Python module named {name!r} is installed already; choose another name")


def _files_of(name: str, kind: PackageKind) -> dict[str, str]:
    """Return the text of each file of a package, by its path."""
    declarations = {f"{name}.{template.rpartition('.')[2]}": template for template in _DECLARATIONS[kind]}
    values = {
        "name": name,
        "distribution": name.replace("_", "-"),
        "registered": name if kind is PackageKind.SQL else _class_name(name),
        "requirement": _REQUIREMENTS.get(kind, "projections-engine"),
        "files": ", ".join(f'"{path}"' for path in declarations),
        "edit": next(reversed(declarations)),
    }
    templates = {
        **declarations,
        f"test_{name}.py": "test.py",
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
    }
    return {path: _fill(template, values) for path, template in templates.items()}


def _class_name(name: str) -> str:
    """Return the name of the projection's class, which is no other name in the templates."""
    words = "".join(word.capitalize() for word in name.split("_"))
    return f"{words}ReadModel" if words in _TAKEN_IN_TEMPLATES else words


def _fill(template: str, values: Mapping[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(values)
