"""Finds the documentation pages and the deployment files, in an installed wheel or in a checkout.

Invariants. A page's name is its file's name without ``.md``, in lower case; a deployment file's name is ``deploy/``
and its file's name. Names are the same in a wheel and in a checkout. Messages name pages as ``projections docs NAME``,
so that a reader finds them without a checkout; a test checks that each of these pages exists.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from eventstore.errors import UsageError
from eventstore.resources import resource_folder

DEPLOY = "deploy/"
_BESIDE_DOCS = ("README.md", "CHANGELOG.md")
"""In a wheel they are in the folder of the pages, in a checkout beside it."""
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SENTENCE = re.compile(r".*?[.](?=\s|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DocPage:
    """A documentation page or a deployment file: its name, and where it is."""

    name: str
    path: Path

    @property
    def is_markdown(self) -> bool:
        """Whether it is a page to read; a deployment file is for machines."""
        return self.path.suffix == ".md"

    def text(self) -> str:
        """Return the whole text."""
        return self.path.read_text(encoding="utf-8")

    def first_sentence(self) -> str:
        """Return the first sentence below the title, or of the first comment or description, in one line."""
        if self.is_markdown:
            paragraphs = (part.strip() for part in self.text().split("\n\n"))
            start = next((part for part in paragraphs if part and not part.startswith(("#", "```"))), "")
        elif self.path.suffix == ".json":  # it has no comments
            start = str(json.loads(self.text()).get("description", ""))
        else:
            lines = [line.removeprefix("#").strip() for line in self.text().splitlines() if line.startswith("#")]
            start = " ".join(lines)
        plain = " ".join(_LINK.sub(r"\1", start).replace("`", "").split())
        sentence = _SENTENCE.match(plain)
        return sentence[0] if sentence else plain


def list_pages() -> list[DocPage]:
    """Return all pages, README first, and then the deployment files.

    Raises:
        FileNotFoundError: the installation is broken.

    """
    docs = resource_folder("projections", "_docs", "docs")
    deploy = resource_folder("projections", "_deploy", "deploy")
    beside = [next(path for path in (docs / name, docs.parent / name) if path.is_file()) for name in _BESIDE_DOCS]
    readme, *others = dict.fromkeys([*beside, *sorted(docs.glob("*.md"))])
    pages = [DocPage(path.stem.lower(), path) for path in (readme, *sorted(others, key=lambda path: path.stem.lower()))]
    return [*pages, *(DocPage(DEPLOY + path.name, path) for path in sorted(deploy.iterdir()) if path.is_file())]


def find_page(wanted: str) -> DocPage:
    """Return a page by its name, or by its path in a checkout such as ``docs/configuration.md``.

    Raises:
        UsageError: there is no such page; the message has names that are near.
        FileNotFoundError: the installation is broken.

    """
    pages = {page.name: page for page in list_pages()}
    names = {name.lower(): name for name in pages}
    key = wanted.lower().removeprefix("docs/").removesuffix(".md")
    if key in names:
        return pages[names[key]]
    near = [names[name] for name in get_close_matches(key, names, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else "list them with: projections docs"
    raise UsageError(f"there is no page {wanted!r}; {hint}")
