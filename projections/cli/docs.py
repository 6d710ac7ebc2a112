"""``projections docs``: shows the documentation, and prints the deployment files."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer
from rich.table import Table

from eventstore.errors import UsageError
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.completed_values import complete_page
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import print_json
from projections.cli.shared.pager import show_markdown, show_text
from projections.cli.shared.typer_app import new_app
from projections.doc_pages import find_page, list_pages
from projections.terminal_text import visible

app = new_app()


class ListedPage(TypedDict):
    """A page of the documentation, or a file for deployment.

    Attributes:
        page: its name.
        about: its first sentence.

    """

    page: str
    about: str


@app.command()
@handles_errors
@writes_json(ListedPage, is_list=True)
def docs(
    page: Annotated[
        str | None,
        typer.Argument(metavar="PAGE", help="The page; default: list all pages.", autocompletion=complete_page),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show a page of the documentation, or list the pages.

    On a terminal a page is laid out, and a long one is shown in a pager ($PAGER); elsewhere its Markdown text is
    printed. The files for deployment are printed as they are: projections docs deploy/projections.service.

    Exit code 2 when there is no such page.
    """
    if page is None:
        _list_pages(as_json=as_json)
        return
    if as_json:
        raise UsageError("--json lists the pages: leave out PAGE or --json")
    found = find_page(page)
    if found.is_markdown:
        show_markdown(found.text())
    else:
        show_text(found.text())


def _list_pages(*, as_json: bool) -> None:
    pages = [(page.name, page.first_sentence()) for page in list_pages()]
    if as_json:
        listed: list[ListedPage] = [{"page": name, "about": about} for name, about in pages]
        print_json(listed)
        return
    table = Table()
    for heading in ("page", "about"):
        table.add_column(heading, overflow="fold")
    for name, about in pages:
        table.add_row(visible(name), visible(about))
    new_console().print(table)
