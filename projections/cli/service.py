"""What the commands that run on and on share: their options, how they stop, and how they say what they did."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from projections.cli.asked import seconds
from projections.cli.output import FAILED, counted, say
from projections.errors import UsageError

if TYPE_CHECKING:
    from eventstore.ingest.service import Outcome
    from eventstore.waits import Waits

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        envvar="PROJECTIONS_CONFIG",
        help="The apps to follow; without it ./projections.toml if there is one, else the environment.",
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        envvar="PROJECTIONS_SINCE",
        help="Where a stream of which nothing is stored begins: a duration back from now (36h, 7d) or a time.",
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
        help="With --until-idle: end with exit code 1 once an upstream, the database or another process was waited "
        "for, without a break, for so long.",
    ),
]


def check_give_up(until_idle: float | None, give_up_after: float | None) -> None:
    """Make sure that both options are given, or only the first.

    Raises:
        UsageError: only the second is.

    """
    if give_up_after is not None and until_idle is None:
        raise UsageError("--give-up-after goes with --until-idle: without it, a run waits for ever")


def stop_on_signals(waits: Waits) -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; who has not left in time then is made to."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, loop, stop, waits.shutdown)
    return stop


async def available(stop: asyncio.Event, waits: Waits) -> str | None:
    """Return the URL of the database that is meant, once it is available; None when the stop came first.

    Raises:
        ConfigurationError: there is no such database, or waiting can't help.
        DatabaseUnavailable: time is up.

    """
    from projections.cli.database import wait_until_available  # noqa: PLC0415 - loaded when it runs
    from projections.database import resolve_database_url  # noqa: PLC0415

    url = await asyncio.to_thread(resolve_database_url, start=True)
    waiting = asyncio.ensure_future(wait_until_available(url, waits))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            return None
        waiting.result()
        return url
    finally:
        for task in (waiting, stopping):
            task.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)


def said_outcome(outcome: Outcome) -> bool:
    """Say what an ingest did; returns whether all went well."""
    say(
        f"{counted(outcome.stored, 'event')} stored, {outcome.duplicates:,} came again, "
        f"{counted(outcome.quarantined, 'message')} in quarantine"
    )
    for app, sentence in outcome.refused.items():
        say(f"projections: app {app!r} is refused: {sentence.removeprefix(f'app {app!r}: ')}")
    for app in outcome.uncommitted:
        said = "not all that came is committed: past that its cursor did not move, the next start goes on there"
        say(f"projections: app {app!r}: {said}")
    if outcome.gave_up is not None:
        say(f"projections: {outcome.gave_up}")
    return not outcome.refused and not outcome.uncommitted and outcome.gave_up is None


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, seconds: float) -> None:
    if stop.is_set():
        return
    stop.set()
    # A database that neither answers nor hangs up could hold the end up for ever. Nothing is lost by leaving: what
    # isn't committed comes again.
    loop.call_later(seconds + 0.7, _leave)


def _leave() -> None:
    say("projections: the database does not answer; cursors did not move, the next start goes on there")
    os._exit(FAILED)
