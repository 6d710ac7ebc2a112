"""Shows a page: as Markdown on a terminal, in a pager if it is long; as its plain text everywhere else."""

from __future__ import annotations

import os
import sys

from rich.markdown import Markdown

from projections.cli.shared.console import new_console
from projections.cli.shared.output import print_data

_WIDTH = 120
"""The longest lines that read well."""


def show_text(text: str) -> None:
    """Print a text as it is, line by line."""
    for line in text.splitlines():
        print_data(line)


def show_markdown(text: str) -> None:
    """Print a page; on a terminal with headings, tables and colours, and in a pager if it has more lines than fit."""
    console = new_console()
    if not sys.stdout.isatty():
        show_text(text)
        return
    page = Markdown(text)
    width = min(console.width, _WIDTH)
    if len(console.render_lines(page, console.options.update(width=width))) < console.height:
        console.print(page, width=width)
        return
    # less shows colours only if it is told so; whoever configured it keeps that.
    os.environ.setdefault("LESS", "R")
    with console.pager(styles=True):
        console.print(page, width=width)
