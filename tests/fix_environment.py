"""A hook: tests don't run in an environment that was made from an older pyproject.toml."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = set(project["entry-points"]["projections"].items())
    try:
        points = distribution(project["name"]).entry_points
    except PackageNotFoundError:
        raise pytest.UsageError(f"{project['name']} isn't installed in this environment: run make setup") from None
    if {(point.name, point.value) for point in points if point.group == "projections"} != declared:
        raise pytest.UsageError("this environment has other projections than pyproject.toml: run make setup")
