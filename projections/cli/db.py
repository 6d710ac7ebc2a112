"""``projections db``: the embedded PostgreSQL, and a psql on whichever database is meant."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from projections.cli.shared.output import echo, say, says_errors

app = typer.Typer(no_args_is_help=True, help="Start, stop and open the embedded PostgreSQL.")


class StopMode(StrEnum):
    """Postgres's words for how to stop."""

    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"


@app.command()
@says_errors
def start() -> None:
    """Start the embedded PostgreSQL and print its URL.

    It listens on 127.0.0.1 only, with a generated password, and keeps its data in .projections (or PROJECTIONS_HOME).
    """
    _refuse_given("started")
    from projections.database import embedded  # noqa: PLC0415 - loaded when it runs

    server = embedded()
    url = server.start()
    status = server.status()
    say(f"PostgreSQL {server.server_version} runs as process {status.pid}, data in {status.data}")
    say("it runs until: projections db stop")
    echo(url)


@app.command()
@says_errors
def stop(
    *,
    mode: Annotated[
        StopMode,
        typer.Option(
            envvar="PROJECTIONS_STOP_MODE",
            help="smart waits for clients; immediate needs a recovery at the next start.",
        ),
    ] = StopMode.FAST,
) -> None:
    """Stop the embedded PostgreSQL; its data stays."""
    _refuse_given("stopped")
    from projections.database import embedded  # noqa: PLC0415

    server = embedded()
    ran = server.status().pid is not None
    server.stop(mode.value)
    say("stopped" if ran else "the embedded PostgreSQL isn't running")


@app.command()
@says_errors
def url() -> None:
    """Print the URL of the database that commands use.

    The embedded PostgreSQL must be running if no other database is configured.
    """
    from projections.database import resolve_database_url  # noqa: PLC0415

    echo(resolve_database_url(start=False))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@says_errors
def psql(context: typer.Context) -> None:
    """Run psql on the database that commands use.

    Arguments after -- are psql's: projections db psql -- -c 'select 1'. The embedded PostgreSQL is started if no other
    database is configured.
    """
    from projections.database import resolve_database_url  # noqa: PLC0415

    _become_psql(resolve_database_url(start=True, create=True), context.args)


def _refuse_given(what: str) -> None:
    from projections.database import given_database_url  # noqa: PLC0415
    from projections.errors import UsageError  # noqa: PLC0415

    if given_database_url() is not None:
        raise UsageError(
            f"a database is given (DATABASE_URL, or PGHOST and the like), so the embedded one isn't {what}"
        )


def _become_psql(url: str, arguments: list[str]) -> NoReturn:
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415

    from projections.errors import ProjectionsError  # noqa: PLC0415
    from projections.sandbox.embedded import wheel_psql  # noqa: PLC0415

    found = wheel_psql() or shutil.which("psql")
    if found is None:
        raise ProjectionsError("there is no psql: install projections[embedded], or PostgreSQL's client programs")
    parts = conninfo_to_dict(url)
    # Anyone on the machine may read a command line; an environment only its owner.
    password = parts.pop("password", None)
    environment = dict(os.environ)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    connection = make_conninfo("", **parts)
    os.execve(found, [Path(found).name, f"--dbname={connection}", *arguments], environment)  # noqa: S606 - no shell
