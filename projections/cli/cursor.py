"""``projections cursor``: where each stream goes on, and how to make one begin elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from projections.cli.shared.confirm import confirm
from projections.cli.shared.interruptible import run_once
from projections.cli.shared.long_running import ConfigOption, SinceOption
from projections.cli.shared.output import echo, echo_json, say, says_errors
from projections.errors import UsageError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from eventstore.contracts import Contract
    from eventstore.ingest.apps import App
    from eventstore.ingest.resume import ResumePoint
    from eventstore.waits import Waits

app = typer.Typer(no_args_is_help=True, help="Show or reset where each app's stream resumes.")

UNSURE = "the command was interrupted: projections cursor show tells what holds"


class Shown(NamedTuple):
    """An app, the contract of its next dial, and what that sends."""

    app: App
    contract: Contract
    dial: ResumePoint


@app.command()
@says_errors
def show(
    name: Annotated[str | None, typer.Argument(metavar="APP", help="The app; default: all.")] = None,
    *,
    config: ConfigOption = None,
    since: SinceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where each app's stream resumes.

    That is the last event received, what the next dial sends and why, and recorded gaps.
    """
    from projections.cli.shared.open_database import plain_context  # noqa: PLC0415 - loaded when it runs

    url, waits = plain_context(writes=False)
    found = run_once(_look(url, waits, name, config, since), holds="nothing was changed")
    if as_json:
        echo_json([_as_dict(one) for one in found])
        return
    for number, one in enumerate(found):
        for line in [*([""] if number else []), *_lines(one)]:
            echo(line)
    if not found:
        say("no app has been followed yet")


@app.command()
@says_errors
def reset(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    *,
    config: ConfigOption = None,
    since: Annotated[
        str | None,
        typer.Option(help="Where the stream starts: a duration back from now (36h) or a time with its zone."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Make an app's stream start again.

    It starts at --since, or where a new app starts. Nothing stored is removed; events that are received again are
    recognised as duplicates. The app must not be followed meanwhile (exit code 1 names who
    follows it). Without --yes: asks on a terminal; elsewhere says what would happen, and exits with 2.
    """
    from datetime import UTC, datetime  # noqa: PLC0415 - loaded when it runs

    from eventstore.ingest.apps import reset_cursor  # noqa: PLC0415
    from eventstore.ingest.since_setting import parse_since  # noqa: PLC0415
    from projections.cli.shared.open_database import plain_context  # noqa: PLC0415

    to = parse_since(since, datetime.now(UTC)) if since is not None else None
    url, waits = plain_context(writes=True)
    (before,) = run_once(_look(url, waits, name, config, None, to_change=True), holds="nothing was changed")
    where = f"at {_at(to)}" if to is not None else "where a first contact begins (the configured since, or the default)"
    confirm(
        [
            f"the stream of app {name!r} would begin again {where};",
            f"the last event_id received ({before.app.last_event_id or 'none yet'}) would be forgotten;",
            "stored events, quarantine, read models and recorded gaps stay; events that come again are duplicates",
        ],
        yes=yes,
    )
    run_once(reset_cursor(url, name, to, waits=waits), holds=UNSURE)
    (after,) = run_once(_look(url, waits, name, config, None), holds=UNSURE)
    echo(f"{name}: the next dial sends {_sent(after.dial)}")


async def _look(
    url: str, waits: Waits, name: str | None, config: Path | None, since: str | None, *, to_change: bool = False
) -> list[Shown]:
    from eventstore.ingest.apps import read_apps, refuse_followed  # noqa: PLC0415
    from eventstore.postgres.connection import connect  # noqa: PLC0415 - loaded when it runs

    async with await connect(url, name="projections cursor", waits=waits) as conn:
        apps = {key: one for key, one in (await read_apps(conn)).items() if one.has_cursor}
        if name is not None and name not in apps:
            known = f"known are {', '.join(apps)}" if apps else "none has been followed yet"
            raise UsageError(f"no app {name!r} has a cursor here: {known}")
        if name is not None and to_change:
            await refuse_followed(conn, name)
        chosen = apps.values() if name is None else [apps[name]]
        return [await _shown(conn, one, waits, config, since) for one in chosen]


async def _shown(conn: AsyncConnection, one: App, waits: Waits, config: Path | None, since: str | None) -> Shown:
    from eventstore.ingest.apps import next_resume_point  # noqa: PLC0415 - loaded when it runs

    contract, begin = _configured(one.app, config, since)
    return Shown(one, *await next_resume_point(conn, one, contract=contract, since=begin, waits=waits))


def _configured(name: str, config: Path | None, since: str | None) -> tuple[Contract | None, str | None]:
    """Return the contract and the first contact's cursor that are configured here; None for what isn't."""
    from datetime import UTC, datetime  # noqa: PLC0415 - loaded when it runs

    from eventstore.contracts import Contract  # noqa: PLC0415
    from eventstore.ingest.config import load_apps  # noqa: PLC0415
    from eventstore.ingest.since_setting import parse_since  # noqa: PLC0415

    try:
        found = load_apps(config).get(name)
    except UsageError:
        if config is not None:
            raise
        found = None  # one may look at cursors where nothing is followed
    begin = since or (found.since if found else None)
    contract = Contract(found.contract) if found and found.contract != "auto" else None
    return contract, parse_since(begin, datetime.now(UTC)) if begin is not None else None


def _at(event_id: str) -> str:
    from eventstore.ingest.apps import time_in  # noqa: PLC0415 - loaded when it runs
    from projections.cli.shared.cell_text import shown  # noqa: PLC0415

    moment = time_in(event_id)
    return shown(moment) if moment is not None else "a time after the year 9999"


def _with_time(event_id: str | None) -> str:
    return f"{event_id} ({_at(event_id)})" if event_id else "none"


def _sent(dial: ResumePoint) -> str:
    return f"{_with_time(dial.event_id) if dial.event_id else 'no event_id'}: {dial.why}"


def _lines(one: Shown) -> list[str]:
    from projections.cli.shared.cell_text import shown  # noqa: PLC0415 - loaded when it runs

    app, contract, dial = one
    received = f", received at {shown(app.last_received_at)}" if app.last_received_at else ""
    decided = f"{app.contract}" if app.contract else f"not yet known; {contract.value} is dialled"
    follower = (app.followed_by or "nobody").removeprefix(f"projections ingest {app.app} ")
    lines = [
        f"{app.app}",
        f"  contract        {decided}",
        f"  last event_id   {_with_time(app.last_event_id)}{received}",
        f"  followed by     {follower}",
        f"  next dial       {_sent(dial)}",
        f"  gaps            {len(app.gaps) or 'none'}",
    ]
    for gap in app.gaps:
        ends = f"{_with_time(gap['lower'])} to {_with_time(gap['upper'])}"
        lines.append(f"    {ends}, noticed at {gap.get('noticed_at')}: {gap.get('detail')}")
    if app.last_error:
        lines.append(f"  last error      {app.last_error}")
    return lines


def _as_dict(one: Shown) -> dict[str, Any]:
    app, contract, dial = one
    return {
        "app": app.app,
        "contract": app.contract,
        "last_event_id": app.last_event_id,
        "last_received_at": app.last_received_at.isoformat() if app.last_received_at else None,
        "followed_by": app.followed_by,
        "next_dial": {"contract": contract.value, "event_id": dial.event_id, "why": dial.why},
        "gaps": app.gaps,
        "reset": None if app.reset_position is None else {"to": app.reset_to, "position": app.reset_position},
        "last_error": app.last_error,
    }
