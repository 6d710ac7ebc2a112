"""What every Typer of a command has: its settings, and how a group is called without a subcommand."""

from __future__ import annotations

from typing import Any

import typer

from eventstore.errors import UsageError


def new_app(**settings: Any) -> typer.Typer:  # noqa: ANN401 - Typer's settings
    """Return a Typer for one command, or for a group of commands if it gets a callback or several commands."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


def is_alone(context: typer.Context, *, as_json: bool) -> bool:
    """Return whether a group of commands was called without a subcommand.

    Raises:
        UsageError: it was called with one, and ``--json`` is before it, where the subcommand wouldn't see it.

    """
    name = context.invoked_subcommand
    if name is not None and as_json:
        raise UsageError(f"write --json after the subcommand: projections {context.info_name} {name} --json")
    return name is None
