"""``projections list``: lists the installed projections."""

from __future__ import annotations

from typing import TypedDict

import typer
from rich.table import Table

from eventstore.contracts.event_types import EventType
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import USAGE_ERROR, print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.projection import Projection
from projections.registry import find_projections
from projections.terminal_text import visible

app = new_app()


class InstalledProjection(TypedDict):
    """An installed projection.

    Attributes:
        name: the projection.
        version: its version, in this installation.
        event_types: the names of the event types that it handles; a type that this version doesn't know is a number.
        tables: the names of its tables.
        views: the names of its views.

    """

    name: str
    version: int
    event_types: list[str]
    tables: list[str]
    views: list[str]


@app.command("list")
@handles_errors
@writes_json(InstalledProjection, is_list=True)
def list_(*, as_json: JsonOption = False) -> None:
    """List the installed projections.

    These are the built-in ones and those that other packages register.
    """
    registry = find_projections()
    found = [_describe(one) for one in registry.projections.values()]
    if as_json:
        print_json(found)
    else:
        _print_table(found)
    for why in registry.broken.values():
        print_message(f"projections: {why}")
    if registry.broken:
        raise typer.Exit(USAGE_ERROR)


def _describe(projection: Projection) -> InstalledProjection:
    names = {int(known): known.name for known in EventType}
    return {
        "name": projection.name,
        "version": projection.version,
        "event_types": [names.get(number, str(number)) for number in sorted(map(int, projection.handles))],
        "tables": [table.name for table in projection.tables],
        "views": [view.name for view in projection.views],
    }


def _print_table(found: list[InstalledProjection]) -> None:
    table = Table()
    headings = ["name", "version", "event types", "tables"]
    if any(one["views"] for one in found):
        headings.append("views")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for one in found:
        lists = (one["event_types"], one["tables"], one["views"])
        texts = [one["name"], str(one["version"]), *(", ".join(names) for names in lists)][: len(headings)]
        table.add_row(*map(visible, texts))
    new_console().print(table)
