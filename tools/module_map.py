"""Writes the module map in docs/design.md: every module with the first sentence of its docstring.

``--check`` compares the modules only, so that a better sentence in a docstring fails no test; ``make docs`` brings the
sentences up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "design.md"
PACKAGES = ("eventstore", "projections")
WIDTH = 34
_MAP = re.compile(r"(<!-- module map -->\n```text\n)(.*?)(```\n<!-- end -->)", re.DOTALL)


def modules() -> dict[str, str]:
    """Return the modules and packages as lines of the map have them, in order: the indented name, and its sentence."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        _add(ROOT / package, 0, found)
    return found


def _add(folder: Path, depth: int, found: dict[str, str]) -> None:
    found[_key(folder)] = _line(depth, f"{folder.name}/", folder / "__init__.py")
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    for path in sorted(files):
        found[_key(path)] = _line(depth + 1, path.stem, path)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in ("__pycache__", "_generated", "static", "templates"):
            _add(path, depth + 1, found)


def _key(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _line(depth: int, name: str, path: Path) -> str:
    return f"{'  ' * depth}{name}".ljust(WIDTH) + f" {first_sentence(path)}"


@cache
def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, in one line."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n", 1)[0]
    text = " ".join(paragraph.split())
    return re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)[0].replace("``", "")


def mapped_modules(page: str) -> list[str]:
    """Return the modules that a page's map has."""
    names: list[str] = []
    folders: list[str] = []
    found = _MAP.search(page)
    for line in (found[2] if found else "").splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        names.append(".".join([*folders, name.rstrip("/")]))
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
    return names


def with_map(page: str) -> str:
    """Return a page with its map brought up to date."""
    lines = "\n".join(modules().values())
    return _MAP.sub(lambda found: f"{found[1]}{lines}\n{found[3]}", page)


def main() -> int:
    """Write the map, or with ``--check`` compare its modules; 1 when one is missing from it or no longer exists."""
    page = PAGE.read_text()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(with_map(page))
        return 0
    mapped, existing = mapped_modules(page), modules()
    for name in sorted(existing.keys() - set(mapped)):
        print(f"docs/design.md: add this line to the module map (or run make docs):\n{existing[name]}", file=sys.stderr)
    for name in sorted(set(mapped) - existing.keys()):
        print(f"docs/design.md: remove {name} from the module map (or run make docs)", file=sys.stderr)
    return 1 if set(mapped) != existing.keys() else 0


if __name__ == "__main__":
    raise SystemExit(main())
