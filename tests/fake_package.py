"""Installs a made-up package for one test: modules, and the entry points of its projections."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, modules: Mapping[str, str], entry_points: Mapping[str, str]
) -> None:
    """Write a package where Python finds it, with the metadata of a distribution.

    Args:
        folder: an empty folder, whose name is no other distribution's.
        monkeypatch: undoes everything at the end of the test.
        modules: the source of each module, by name.
        entry_points: the entry points of the group ``projections``, by name.

    """
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, None)  # so that monkeypatch removes whatever is imported
        monkeypatch.delitem(sys.modules, name)
    write_package(folder, modules, entry_points)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


def write_package(folder: Path, modules: Mapping[str, str], entry_points: Mapping[str, str]) -> str:
    """Write a package, and return its folder for PYTHONPATH; the parameters are those of :func:`install`."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{folder.name}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 1\n")
    lines = ["[projections]", *(f"{name} = {value}" for name, value in entry_points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


def write_broken_package(folder: Path) -> str:
    """Write a package whose projection, ``theirs``, can't be loaded; returns its folder for PYTHONPATH."""
    return write_package(folder, {}, {"theirs": "absent:Theirs"})


def write_deliveries_package(folder: Path) -> str:
    """Write a package whose projection, ``deliveries``, works once its table exists; returns the folder."""
    return write_package(folder, {"deliveries": _DELIVERIES}, {"deliveries": "deliveries:Deliveries"})


_DELIVERIES = """
from sqlalchemy import Column, MetaData, Table, Text, select
from sqlalchemy.dialects.postgresql import insert

from projections import Projection

table = Table(
    "deliveries",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True, comment="Whose it is."),
    Column("event_id", Text, primary_key=True, comment="The event."),
    comment="Deliveries.",
)


class Deliveries(Projection):
    name, version, handles, tables, partition_by = "deliveries", 1, frozenset({1}), (table,), ("app",)

    def fold(self, window):
        e = window.events
        return [insert(table).from_select(["app", "event_id"], select(e.c.app, e.c.event_id)).on_conflict_do_nothing()]
"""
