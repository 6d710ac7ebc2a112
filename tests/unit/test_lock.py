"""The lock names every dependency with hashes, and no registry, index or link."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PINS = re.findall(
    r"^([a-z0-9][a-z0-9._-]*)==(\S+)((?: ; [^\\\n]+)?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    LOCK,
    re.MULTILINE,
)


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["dev"],
    ]
    return [Requirement(line) for line in lines]


def test_the_lock_names_no_registry_index_or_link() -> None:
    for forbidden in ("://", "--index", "--extra-index", "--find-links", "-i ", "-f ", " @ ", "file:"):
        assert forbidden not in LOCK


def test_every_line_is_a_pin_with_hashes() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.lstrip().startswith("#")]
    starts = [line for line in lines if not line.startswith("    --hash=sha256:")]
    assert len(starts) == len(PINS)
    assert all(line.endswith(" \\") for line in starts)


def test_the_lock_contains_every_declared_dependency() -> None:
    pinned: dict[str, list[str]] = {}
    for name, version, *_ in PINS:
        pinned.setdefault(canonicalize_name(name), []).append(version)
    for requirement in declared():
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} isn't locked: run make lock"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_the_lock_contains_the_build_backend() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    names = {canonicalize_name(name) for name, *_ in PINS}
    assert {canonicalize_name(Requirement(line).name) for line in build["requires"]} <= names
    assert "editables" in names  # hatchling needs it for an editable install
