"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventstore.errors import UsageError
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.completed_values import complete_app, complete_projection

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        envvar="PROJECTIONS_CONFIG",
        help="Configuration file. Default: ./projections.toml if it exists, else the environment.",
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        envvar="PROJECTIONS_SINCE",
        help="Where to start an app that has no stored events: a duration back from now (36h, 6d) or a time.",
    ),
]
GiveUpOption = Annotated[
    float | None,
    typer.Option(
        "--give-up-after",
        envvar="PROJECTIONS_GIVE_UP_AFTER",
        callback=seconds,
        min=0.0,
        metavar="SECONDS",
        help="With --until-idle: exit with code 1 after waiting this long, without a break, for an upstream, the "
        "database or another process.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        max=64,
        metavar="N",
        help="Database sessions that work at the same time. Default: half of this machine's processors.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
EventIdOption = Annotated[str, typer.Option("--event-id", help="The event's ULID.")]
AppArgument = Annotated[str, typer.Argument(metavar="APP", help="The app.", autocompletion=complete_app)]
ProjectionArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The projection.", autocompletion=complete_projection)
]
ProjectionsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Projection names.", autocompletion=complete_projection)
]


def check_give_up(until_idle: float | None, give_up_after: float | None) -> None:
    """Make sure that --give-up-after is only given with --until-idle.

    Raises:
        UsageError: it is given alone.

    """
    if give_up_after is not None and until_idle is None:
        raise UsageError("--give-up-after needs --until-idle: without it a run never gives up")
