"""``projections cursor``: shows where each app's stream resumes, or resets it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from psycopg import AsyncConnection

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.apps import App, next_resume_point, read_apps, refuse_followed, reset_cursor, time_in
from eventstore.ingest.config import load_apps
from eventstore.ingest.context import IngestContext
from eventstore.ingest.resume import ResumePoint
from eventstore.ingest.since_setting import parse_since
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from projections.cli.shared.common_options import AppArgument, ConfigOption, JsonOption, SinceOption, YesOption
from projections.cli.shared.completed_values import complete_app
from projections.cli.shared.confirm import confirm
from projections.cli.shared.cursor_json import AppCursor, ShownCursor, describe_cursor
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database_and_waits
from projections.cli.shared.output import print_data, print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.cli.shared.value_text import format_value

app = new_app(no_args_is_help=True, help="Show or reset where each app's stream resumes.")

IF_INTERRUPTED = "the cursor may have been reset: see projections cursor show"


@app.command()
@handles_errors
@writes_json(ShownCursor, is_list=True)
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="APP", help="The app; default: all.", autocompletion=complete_app)
    ] = None,
    *,
    config: ConfigOption = None,
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where each app's stream resumes.

    That is the last event received, the event_id that is sent on the next connect and why, and recorded gaps.
    """
    url, waits = migrated_database_and_waits(writes=False)
    found = run_interruptible(_read_cursors(url, waits, name, config, since), if_interrupted=NOTHING_CHANGED)
    if as_json:
        print_json([describe_cursor(one) for one in found])
        return
    for number, one in enumerate(found):
        for line in [*([""] if number else []), *_lines(one)]:
            print_data(line)
    if not found:
        print_message("no app has been followed yet")


@app.command()
@handles_errors
@writes_json(ShownCursor)
def reset(
    name: AppArgument,
    *,
    config: ConfigOption = None,
    since: Annotated[
        str | None,
        typer.Option(help="Where the stream starts: a duration back from now (36h) or a time with its zone."),
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an app's stream start again.

    It starts at --since, or where a new app starts. Nothing stored is removed; events that are received again are
    recognised as duplicates. The app must not be followed meanwhile (exit code 1 names who follows it). Without --yes:
    asks on a terminal; elsewhere prints what would happen, and exits with 2.
    """
    to = parse_since(since, datetime.now(UTC)) if since is not None else None
    url, waits = migrated_database_and_waits(writes=True)
    reading = _read_cursors(url, waits, name, config, None, to_change=True)
    (before,) = run_interruptible(reading, if_interrupted=NOTHING_CHANGED)
    where = f"at {_time_of(to)}" if to is not None else "where a new app starts (the configured since, or the default)"
    confirm(
        [
            f"the stream of app {name!r} would start again {where};",
            f"the last event_id received ({before.app.last_event_id or 'none yet'}) would be forgotten;",
            "stored events, quarantine, read models and recorded gaps stay; events received again are duplicates",
        ],
        yes=yes,
    )
    run_interruptible(reset_cursor(IngestContext(url, waits), name, to), if_interrupted=IF_INTERRUPTED)
    (after,) = run_interruptible(_read_cursors(url, waits, name, config, None), if_interrupted=IF_INTERRUPTED)
    if as_json:
        print_json(describe_cursor(after))
    else:
        print_data(f"{name}: the next connect sends {_sent(after.resume)}")


async def _read_cursors(
    url: str, waits: Waits, name: str | None, config: Path | None, since: str | None, *, to_change: bool = False
) -> list[AppCursor]:
    async with await connect(url, name="projections cursor", waits=waits) as conn:
        apps = {key: one for key, one in (await read_apps(conn)).items() if one.has_cursor}
        if name is not None and name not in apps:
            known = f"apps with a cursor: {', '.join(apps)}" if apps else "no app has been followed yet"
            raise UsageError(f"app {name!r} has no cursor here; {known}")
        if name is not None and to_change:
            await refuse_followed(conn, name)
        chosen = apps.values() if name is None else [apps[name]]
        return [await _read_cursor(conn, one, waits, config, since) for one in chosen]


async def _read_cursor(
    conn: AsyncConnection, one: App, waits: Waits, config: Path | None, since: str | None
) -> AppCursor:
    contract, start = _configured(one.app, config, since)
    return AppCursor(one, *await next_resume_point(conn, one, contract=contract, since=start, waits=waits))


def _configured(name: str, config: Path | None, since: str | None) -> tuple[Contract | None, str | None]:
    """Return the contract and the cursor of a first connect as configured here; None for what isn't configured."""
    try:
        found = load_apps(config).get(name)
    except UsageError:
        if config is not None:
            raise
        found = None  # cursors can be looked at where nothing is configured
    start = since or (found.since if found else None)
    contract = Contract(found.contract) if found and found.contract != "auto" else None
    return contract, parse_since(start, datetime.now(UTC)) if start is not None else None


def _time_of(event_id: str) -> str:
    moment = time_in(event_id)
    return format_value(moment) if moment is not None else "a time after the year 9999"


def _with_time(event_id: str | None) -> str:
    return f"{event_id} ({_time_of(event_id)})" if event_id else "none"


def _sent(resume: ResumePoint) -> str:
    return f"{_with_time(resume.event_id) if resume.event_id else 'no event_id'}: {resume.why}"


def _lines(one: AppCursor) -> list[str]:
    app, contract, resume = one
    received = f", received at {format_value(app.last_received_at)}" if app.last_received_at else ""
    decided = f"{app.contract}" if app.contract else f"not yet known; the next connect uses {contract.value}"
    follower = (app.followed_by or "nobody").removeprefix(f"projections ingest {app.app} ")
    lines = [
        f"{app.app}",
        f"  contract        {decided}",
        f"  last event_id   {_with_time(app.last_event_id)}{received}",
        f"  followed by     {follower}",
        f"  next connect    {_sent(resume)}",
        f"  gaps            {len(app.gaps) or 'none'}",
    ]
    for gap in app.gaps:
        ends = f"{_with_time(gap['lower'])} to {_with_time(gap['upper'])}"
        lines.append(f"    {ends}, noticed at {gap.get('noticed_at')}: {gap.get('detail')}")
    if app.last_error:
        lines.append(f"  last error      {app.last_error}")
    return lines
