"""The values that shell completion offers for arguments and options, from what is installed and from files alone."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

import typer

from eventstore.small_files import read_small_file

CONFIG_FILE = "projections.toml"
"""As in :mod:`eventstore.ingest.config`, which takes long to load; a test compares them."""


def complete_projection(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the installed projections that aren't given yet; loads none of them."""
    given = ctx.params.get("names") or ()
    names = {point.name for point in entry_points(group="projections")}
    return _beginning_with(incomplete, names.difference(given))


def complete_app(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the configured apps."""
    chosen = ctx.params.get("config") or os.environ.get("PROJECTIONS_CONFIG")
    path = Path(chosen or CONFIG_FILE)
    if chosen or path.exists():
        return _beginning_with(incomplete, tomllib.loads(read_small_file(path).decode()).get("apps", {}))
    return _beginning_with(incomplete, [os.environ.get("PROJECTIONS_APP") or "default"])


def complete_read_model(incomplete: str) -> list[str]:
    """Return the names of the tables of the installed projections."""
    from projections.registry import find_projections  # noqa: PLC0415 - only this one loads the projections

    found = find_projections().projections.values()
    return _beginning_with(incomplete, {table.name for projection in found for table in projection.tables})


def complete_page(incomplete: str) -> list[str]:
    """Return the names of the pages of the documentation."""
    from projections.doc_pages import list_pages  # noqa: PLC0415 - it reads all pages

    return _beginning_with(incomplete, {page.name for page in list_pages()})


def _beginning_with(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
