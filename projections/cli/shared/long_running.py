"""What the commands that run on and on share: their options, how they stop, and how they say what they did."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from projections import signals
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.output import FAILED, LogLevel, counted, say
from projections.errors import UsageError

if TYPE_CHECKING:
    from eventstore.ingest.follow_apps import Outcome
    from eventstore.waits import Waits

T = TypeVar("T")
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
        UsageError: there is no such database, or waiting can't help.
        DatabaseUnavailable: time is up.

    """
    from projections.cli.shared.open_database import wait_until_available  # noqa: PLC0415 - loaded when it runs
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


def run_until_told(work: Coroutine[Any, Any, T]) -> T:
    """Run work that handles SIGINT and SIGTERM itself, by :func:`stop_on_signals`; what is said after it is not cut."""
    try:
        return asyncio.run(work)
    finally:
        signals.renew()


def said_outcome(outcome: Outcome) -> bool:
    """Say what an ingest did; returns whether all went well."""
    say(
        f"{counted(outcome.stored, 'new event')}, {counted(outcome.duplicates, 'duplicate')}, "
        f"{outcome.quarantined:,} quarantined"
    )
    for app, sentence in outcome.refused.items():
        say(f"projections: app {app!r} is refused: {sentence.removeprefix(f'app {app!r}: ')}", level=LogLevel.ERROR)
    for app in outcome.uncommitted:
        said = "some received events were not stored; they are received again at the next start"
        say(f"projections: app {app!r}: {said}", level=LogLevel.ERROR)
    if outcome.gave_up is not None:
        say(f"projections: {outcome.gave_up}", level=LogLevel.ERROR)
    return not outcome.refused and not outcome.uncommitted and outcome.gave_up is None


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, seconds: float) -> None:
    if stop.is_set():
        return
    stop.set()
    # A database that neither answers nor hangs up could hold the end up for ever. Nothing is lost by leaving: what
    # isn't committed comes again.
    loop.call_later(seconds + 0.7, _leave)


def _leave() -> None:
    said = "the database does not answer; events that were not stored are received again at the next start"
    say(f"projections: {said}", level=LogLevel.ERROR)
    os._exit(FAILED)
