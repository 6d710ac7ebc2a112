"""Commands that take something away say what will happen, and do it only when told so."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from projections.cli.shared.output import FAILED, say
from projections.errors import UsageError


def confirm(consequences: Sequence[str], *, yes: bool) -> None:
    """Return when the user agreed: by ``--yes``, or on a terminal when asked.

    Raises:
        UsageError: nobody can be asked.
        typer.Exit: the answer is no.

    """
    if yes:
        return
    for line in consequences:
        say(line)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nothing was changed; give --yes to do it")
    if not typer.confirm("Do it?", err=True):
        say("nothing was changed")
        raise typer.Exit(FAILED)
