"""``projections apps``: whose streams are or were followed, and how to forget one that is no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from projections.cli.shared.confirm import confirm
from projections.cli.shared.interruptible import run_once
from projections.cli.shared.output import console, counted, echo_json, say, says_errors
from projections.errors import UsageError
from projections.terminal_text import visible

if TYPE_CHECKING:
    from eventstore.ingest.apps import App
    from eventstore.waits import Waits

app = typer.Typer(invoke_without_command=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(help="List the apps that are or were followed, or forget one.")
@says_errors
def apps(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the apps, when no subcommand is named."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)
    elif as_json:
        raise UsageError(f"--json goes behind the subcommand: projections apps {context.invoked_subcommand} --json")


@app.command("list")
@says_errors
def list_(*, as_json: JsonOption = False) -> None:
    """List the apps that are or were followed.

    These are the apps with a cursor, and those of which only events are stored.
    """
    _list(as_json=as_json)


@app.command()
@says_errors
def forget(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Remove the cursor of an app that no longer exists.

    Status then no longer lists it. Its events and read models stay.

    The app must not be followed meanwhile (exit code 1 names who follows it). Without --yes: asks on a terminal;
    elsewhere says what would happen, and exits with 2. An app that is still configured comes back with the next start.
    """
    from eventstore.ingest.apps import forget_app  # noqa: PLC0415 - loaded when it runs
    from projections.cli.shared.open_database import plain_context  # noqa: PLC0415

    url, waits = plain_context(writes=True)
    one, events = run_once(_look(url, waits, name), holds="nothing was changed")
    stays = (
        f"{counted(events, 'event')} of {name!r}, {counted(one.quarantined, 'message')} in quarantine"
        " and its rows in read models stay"
    )
    gaps = f" and {counted(len(one.gaps), 'recorded gap')}" if one.gaps else ""
    confirm(
        [f"the cursor of app {name!r} ({one.last_event_id or 'nothing received'}){gaps} would be removed;", stays],
        yes=yes,
    )
    run_once(forget_app(url, name, waits=waits), holds="projections apps tells whether its cursor is still there")
    say(f"app {name!r} is forgotten: {stays}")


def _list(*, as_json: bool) -> None:
    from projections.cli.shared.open_database import plain_context  # noqa: PLC0415 - loaded when it runs

    url, waits = plain_context(writes=False)
    found = run_once(_read(url, waits), holds="nothing was changed")
    if as_json:
        echo_json([_as_dict(one) for one in found.values()])
        return
    if not found:
        say("no app has been followed yet, and no event is stored")
        return
    from rich.table import Table  # noqa: PLC0415 - loaded when it runs

    table = Table()
    for heading in ("app", "contract", "last received"):
        table.add_column(heading, no_wrap=True)
    table.add_column("followed by", overflow="fold")
    for heading in ("gaps", "quarantined"):
        table.add_column(heading, justify="right")
    for one in found.values():
        table.add_row(*map(visible, _cells(one)), str(len(one.gaps)), f"{one.quarantined:,}")
    console().print(table)


def _cells(one: App) -> tuple[str, str, str, str]:
    from projections.cli.shared.cell_text import shown  # noqa: PLC0415 - loaded when it runs

    if not one.has_cursor:
        return one.app, "", "no cursor", "nobody"
    received = shown(one.last_received_at.replace(microsecond=0)) if one.last_received_at else "nothing yet"
    follower = (one.followed_by or "nobody").removeprefix(f"projections ingest {one.app} ")
    return one.app, one.contract or "not yet known", received, follower


def _as_dict(one: App) -> dict[str, object]:
    return {
        "app": one.app,
        "has_cursor": one.has_cursor,
        "contract": one.contract,
        "last_event_id": one.last_event_id,
        "last_received_at": one.last_received_at.isoformat() if one.last_received_at else None,
        "gaps": len(one.gaps),
        "quarantined": one.quarantined,
        "followed_by": one.followed_by,
    }


async def _read(url: str, waits: Waits) -> dict[str, App]:
    from eventstore.ingest.apps import read_apps  # noqa: PLC0415
    from eventstore.postgres.connection import connect  # noqa: PLC0415 - loaded when it runs

    async with await connect(url, name="projections apps", waits=waits) as conn:
        return await read_apps(conn)


async def _look(url: str, waits: Waits, name: str) -> tuple[App, int]:
    from eventstore.ingest.apps import count_events, read_apps, refuse_followed  # noqa: PLC0415
    from eventstore.postgres.connection import connect  # noqa: PLC0415 - loaded when it runs

    async with await connect(url, name="projections apps", waits=waits) as conn:
        known = await read_apps(conn)
        if name not in known or not known[name].has_cursor:
            left = [each for each, one in known.items() if one.has_cursor]
            those = f"known are {', '.join(left)}" if left else "no app has one"
            raise UsageError(f"no app {name!r} has a cursor here: {those}")
        await refuse_followed(conn, name)
        return known[name], await count_events(conn, name)
