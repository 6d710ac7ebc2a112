"""The settings that every command's Typer has."""

from __future__ import annotations

from typing import Any

import typer


def new_app(**settings: Any) -> typer.Typer:  # noqa: ANN401 - Typer's settings
    """Return a Typer for one command, or for a group of commands if it gets a callback or several commands."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)
