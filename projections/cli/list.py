"""``projections list``: lists the installed projections."""

from __future__ import annotations

import typer
from rich.table import Table

from eventstore.contracts.event_types import EventType
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.output import USAGE_ERROR, print_message
from projections.cli.shared.typer_app import new_app
from projections.registry import find_projections
from projections.terminal_text import visible

app = new_app()


@app.command("list")
@handles_errors
def list_() -> None:
    """List the installed projections.

    These are the built-in ones and those that other packages register.
    """
    table = Table()
    for heading in ("name", "version", "event types", "tables"):
        table.add_column(heading, overflow="fold")
    names = {int(known): known.name for known in EventType}
    registry = find_projections()
    for one in registry.projections.values():
        types = ", ".join(names.get(number, str(number)) for number in sorted(map(int, one.handles)))
        tables = ", ".join(owned.name for owned in one.tables)
        table.add_row(*map(visible, (one.name, str(one.version), types, tables)))
    new_console().print(table)
    for why in registry.broken.values():
        print_message(f"projections: {why}")
    if registry.broken:
        raise typer.Exit(USAGE_ERROR)
