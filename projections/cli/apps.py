"""``projections apps``: lists the apps that are or were followed, or forgets one that no longer exists."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

import typer
from rich.table import Table

from eventstore.errors import UsageError
from eventstore.ingest.apps import App, count_events, forget_app, read_apps, refuse_followed
from eventstore.ingest.context import IngestContext
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from projections.cli.shared.common_options import AppArgument, JsonOption, YesOption
from projections.cli.shared.confirm import confirm
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database_and_waits
from projections.cli.shared.output import counted, print_json, print_message
from projections.cli.shared.typer_app import is_alone, new_app
from projections.cli.shared.value_text import format_value
from projections.terminal_text import visible

app = new_app(invoke_without_command=True)


class KnownApp(TypedDict):
    """An app that is or was followed, or whose events are stored.

    Attributes:
        app: the app.
        has_cursor: whether it has a cursor; otherwise only its events are stored.
        contract: the contract of its stream; null if it isn't known yet.
        last_event_id: the last event_id received; null if none was.
        last_received_at: when it was received.
        gaps: how many gaps are recorded: events that the upstream can no longer replay.
        quarantined: how many quarantined messages are kept.
        followed_by: the session that follows it now; null if none does.

    """

    app: str
    has_cursor: bool
    contract: str | None
    last_event_id: str | None
    last_received_at: datetime | None
    gaps: int
    quarantined: int
    followed_by: str | None


class ForgottenApp(TypedDict):
    """An app whose cursor was removed.

    Attributes:
        app: the app.
        last_event_id: the last event_id received, which is forgotten; null if none was.
        gaps: how many recorded gaps were removed.
        events: how many of its events stay.
        quarantined: how many of its quarantined messages stay.

    """

    app: str
    last_event_id: str | None
    gaps: int
    events: int
    quarantined: int


@app.callback(help="List the apps that are or were followed, or forget one.")
@handles_errors
@writes_json(KnownApp, is_list=True)
def apps(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the apps, when no subcommand is named."""
    if is_alone(context, as_json=as_json):
        _print_apps(as_json=as_json)


@app.command("list")
@handles_errors
@writes_json(KnownApp, is_list=True)
def list_(*, as_json: JsonOption = False) -> None:
    """List the apps that are or were followed.

    These are the apps with a cursor, and those of which only events are stored.
    """
    _print_apps(as_json=as_json)


@app.command()
@handles_errors
@writes_json(ForgottenApp)
def forget(name: AppArgument, *, yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Remove the cursor of an app that no longer exists.

    Status then no longer lists it. Its events and read models stay.

    The app must not be followed meanwhile (exit code 1 names who follows it). Without --yes: asks on a terminal;
    elsewhere prints what would happen, and exits with 2. An app that is still configured comes back with the next
    start.
    """
    url, waits = migrated_database_and_waits(writes=True)
    one, events = run_interruptible(_read_app(url, waits, name), if_interrupted=NOTHING_CHANGED)
    kept = (
        f"{counted(events, 'event')} and {counted(one.quarantined, 'quarantined message')} of {name!r}"
        " and its rows in read models stay"
    )
    gaps = f" and {counted(len(one.gaps), 'recorded gap')}" if one.gaps else ""
    confirm(
        [f"the cursor of app {name!r} ({one.last_event_id or 'nothing received'}){gaps} would be removed;", kept],
        yes=yes,
    )
    forgetting = forget_app(IngestContext(url, waits), name)
    run_interruptible(forgetting, if_interrupted="the cursor may have been removed: see projections apps")
    if as_json:
        forgotten: ForgottenApp = {
            "app": name,
            "last_event_id": one.last_event_id,
            "gaps": len(one.gaps),
            "events": events,
            "quarantined": one.quarantined,
        }
        print_json(forgotten)
    else:
        print_message(f"app {name!r} is forgotten: {kept}")


def _print_apps(*, as_json: bool) -> None:
    url, waits = migrated_database_and_waits(writes=False)
    found = run_interruptible(_read_apps(url, waits), if_interrupted=NOTHING_CHANGED)
    if as_json:
        print_json([_describe(one) for one in found.values()])
        return
    if not found:
        print_message("no app has been followed yet, and no event is stored")
        return
    table = Table()
    for heading in ("app", "contract", "last received"):
        table.add_column(heading, no_wrap=True)
    table.add_column("followed by", overflow="fold")
    for heading in ("gaps", "quarantined"):
        table.add_column(heading, justify="right")
    for one in found.values():
        table.add_row(*map(visible, _cells(one)), str(len(one.gaps)), f"{one.quarantined:,}")
    new_console().print(table)


def _cells(one: App) -> tuple[str, str, str, str]:
    if not one.has_cursor:
        return one.app, "", "no cursor", "nobody"
    received = format_value(one.last_received_at.replace(microsecond=0)) if one.last_received_at else "nothing yet"
    follower = (one.followed_by or "nobody").removeprefix(f"projections ingest {one.app} ")
    return one.app, one.contract or "not yet known", received, follower


def _describe(one: App) -> KnownApp:
    return {
        "app": one.app,
        "has_cursor": one.has_cursor,
        "contract": one.contract,
        "last_event_id": one.last_event_id,
        "last_received_at": one.last_received_at,
        "gaps": len(one.gaps),
        "quarantined": one.quarantined,
        "followed_by": one.followed_by,
    }


async def _read_apps(url: str, waits: Waits) -> dict[str, App]:
    async with await connect(url, name="projections apps", waits=waits) as conn:
        return await read_apps(conn)


async def _read_app(url: str, waits: Waits, name: str) -> tuple[App, int]:
    """Return an app that has a cursor and that nobody follows, and how many of its events are stored."""
    async with await connect(url, name="projections apps", waits=waits) as conn:
        known = await read_apps(conn)
        if name not in known or not known[name].has_cursor:
            with_cursor = [each for each, one in known.items() if one.has_cursor]
            those = f"apps with a cursor: {', '.join(with_cursor)}" if with_cursor else "no app has one"
            raise UsageError(f"app {name!r} has no cursor here; {those}")
        await refuse_followed(conn, name)
        return known[name], await count_events(conn, name)
