"""The table of commands, and a mapping that imports a command's module only when the command is needed.

Help and completion list all commands from the table alone, which keeps ``projections --help`` fast. A test compares
the table with the commands.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from typer.main import get_command

if TYPE_CHECKING:
    from typer._click import Command

SUMMARIES = {
    "migrate": "Create, update or repair the schema in the database.",
    "run": "Follow the upstreams and keep the read models up to date.",
    "ingest": "Follow the upstreams and store their events, without folding.",
    "dashboard": "Serve a page, metrics and health checks over HTTP, read-only.",
    "status": "Show upstreams, projections, who runs them, and quarantine.",
    "doctor": "Find what is behind or wrong, and the command that mends it.",
    "list": "List the installed projections.",
    "new": "Make a package with a read model of your own, and a test that passes.",
    "check": "Check a projection: its rules, its plans here, and its fold in any order.",
    "pause": "Pause a projection, in whatever process it runs.",
    "resume": "Resume a paused or failed projection immediately.",
    "wait": "Wait until every projection has folded an event.",
    "skip": "Let a projection skip an event that it can't fold.",
    "rebuild": "Rebuild read models from the log, without downtime.",
    "verify": "Check that read models equal the log.",
    "explain": "Show which events produced a row, and which one decides it.",
    "redecode": "Decode the stored events again, after an update of the decoder.",
    "erase": "Erase persons, and keep every count as it is.",
    "archive": "Take old partitions of the event table out of the database, into files.",
    "export": "Write the stored events, or the erased persons, to a file.",
    "import": "Store the events of a file.",
    "simulate": "Serve a made-up app's events over gRPC, for demos and tests.",
    "cursor": "Show or reset where each app's stream resumes.",
    "apps": "List the apps that are or were followed, or forget one.",
    "consumers": "List the named consumers of the log; reset or drop one.",
    "quarantine": "Look at messages that can't be events; retry, export or drop them.",
    "reconcile": "Ask the upstream about requests whose events may be missing.",
    "grant": "Give roles of the database the few privileges that they need.",
    "revoke": "Take away what grant gave to roles.",
    "db": "Start, stop and open the embedded PostgreSQL.",
    "docs": "Show a page of the documentation, or list the pages.",
}
"""Each command's name, in the order of the help, and the first sentence of its help."""

_MODULES = {"import": "import_"}
"""Modules that can't have their command's name, because it is a word of Python."""


class LazyCommands(Mapping[str, "Command"]):
    """The commands by name. Each module has a Typer called ``app``; it is imported when its command is asked for."""

    def __getitem__(self, name: str) -> Command:
        if name not in SUMMARIES:
            raise KeyError(name)
        command = get_command(import_module(f"projections.cli.{_MODULES.get(name, name)}").app)
        if not gc.isenabled():  # everything is loaded
            gc.freeze()
            gc.enable()
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)

    def __contains__(self, name: object) -> bool:
        return name in SUMMARIES
