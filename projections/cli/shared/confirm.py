"""Confirmation before a command removes something."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from eventstore.errors import UsageError
from projections.cli.shared.output import FAILED, print_message


def confirm(consequences: Sequence[str], *, yes: bool) -> None:
    """Return when the user agreed: by ``--yes``, or on a terminal when asked.

    Raises:
        UsageError: nobody can be asked.
        typer.Exit: the answer is no.

    """
    if yes:
        return
    for line in consequences:
        print_message(line)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nothing was changed; give --yes to do it")
    if not typer.confirm("Do it?", err=True):
        print_message("nothing was changed")
        raise typer.Exit(FAILED)
