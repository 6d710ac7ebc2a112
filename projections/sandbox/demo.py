"""Demo: one process simulates a platform, another stores its events in Postgres and folds them.

``make run`` runs this. It only uses the embedded database of this folder, never a configured one: the events are made
up, and events can't be removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.table import Table

from eventstore.postgres.connection import connect_sync
from eventstore.waits import Waits, load_waits
from projections import database, logs, signals
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import errors_handled
from projections.cli.shared.output import print_message, remember_output_options
from projections.errors import ProjectionsError, UsageError
from projections.terminal_text import visible

APP = "demo"
TOKEN = "simulator"  # noqa: S105 - a made-up platform's made-up token
# Fixed, so that another run gets the same events and stores none of them twice.
SIMULATE = ("simulate", "--recipients", "2000", "--seed", "1", "--epoch", "2026-01-05T12:00:00Z", "--token", TOKEN)
RUN = ("run", "--until-idle", "2")
FOR_PEOPLE = {"PROJECTIONS_LOG_FORMAT": "text"}
"""The demo's output is for people, also in a pipe."""

QUERIES = (
    (
        "eventstore.event_log: the stored events by type",
        """SELECT event_type_name AS event, count(*) AS events, min(position) AS "from", max(position) AS "to"
           FROM eventstore.event_log WHERE app = %s GROUP BY event_type_name ORDER BY min(event_type)""",
    ),
    (
        "request_status: the state of the requests",
        """SELECT state, count(*) AS requests, sum(recipients) AS recipients, sum(delivered) AS delivered,
                  sum(failed) AS failed, sum(pending_consent) AS "pending consent"
           FROM public.request_status WHERE app = %s GROUP BY state ORDER BY state""",
    ),
    (
        "consent_registry: may I write to this person, and which event decides?",
        """SELECT DISTINCT ON (status, basis) status, basis, count(*) OVER (PARTITION BY status, basis) AS people,
                  ppnum AS "for example", event_id AS "decided by"
           FROM public.consent_registry WHERE app = %s ORDER BY status, basis, ppnum""",
    ),
    (
        "poll_results: the answers to the first poll",
        """SELECT option, responses, total, round(100 * share)::int AS "%%"
           FROM public.poll_results
           WHERE app = %s AND (send_request_id, poll_id) IN
                 (SELECT send_request_id, poll_id FROM public.poll_tallies WHERE app = %s ORDER BY 1, 2 LIMIT 1)
           ORDER BY responses DESC, option""",
    ),
    (
        "read_model_freshness: how far each read model is behind the log",
        "SELECT * FROM public.read_model_freshness WHERE %s <> '' ORDER BY read_model",
    ),
)

TRY_NEXT = """Try next (projections is .venv/bin/projections here):
  projections db psql     SQL on all of it (the first command starts PostgreSQL again), for example
                          SELECT position, event_type_name, ppnum FROM eventstore.event_log
                          ORDER BY position DESC LIMIT 5;
                          SELECT * FROM consent_history WHERE app = 'demo' AND ppnum = '12300000003';
  projections explain consent_registry 12300000003 --app demo     the events that made this row
  projections verify      checks that the read models equal the log
  projections status      upstreams, projections and quarantine
  projections doctor      what is behind or wrong, and the command that mends it (after a demo: nothing runs)
  projections dashboard   the same on a page that keeps itself current
  make run                run it again: nothing is stored or counted twice
  projections db stop     stop PostgreSQL when you are done; its data stays
  projections --help      then projections docs configuration, to follow your own app"""


def run_demo() -> None:
    """Run the demo; exit code 1 with a sentence when a part of it fails."""
    signals.install()
    remember_output_options()
    logs.configure()
    with errors_handled():
        waits = load_waits()
        with _database() as url:
            print_message("projections migrate")
            _projections("migrate", url=url)
            with _simulator() as address:
                print_message(f"projections {' '.join(RUN)}    # from {address}, over gRPC")
                _projections(*RUN, url=url, address=address)
            _show(url, waits)


@contextmanager
def _database() -> Iterator[str]:
    if database.given_database_url() is not None:
        raise UsageError(
            "the demo's events are made up and can't be removed from the configured database: unset DATABASE_URL (and"
            " PGHOST and the like) to use the embedded PostgreSQL"
        )
    server = database.embedded()
    ran_before = server.url() is not None
    print_message("projections db start         # the embedded PostgreSQL of this folder")
    url = server.start()
    try:
        yield url
    finally:
        if ran_before:
            print_message("the embedded PostgreSQL is still running, as before; stop it with: projections db stop")
        else:
            server.stop()
            print_message("stopped the embedded PostgreSQL; its data stays, and the next command starts it again")


@contextmanager
def _simulator() -> Iterator[str]:
    print_message(f"projections {' '.join(SIMULATE)}    # a process of its own")
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "projections", *SIMULATE],
        env={**os.environ, **FOR_PEOPLE},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                raise ProjectionsError("the simulator did not start; its error is above")
            yield address
        finally:
            process.terminate()


def _projections(*arguments: str, url: str, address: str | None = None) -> None:
    # Only the demo's settings: not the user's own upstreams, in the environment or in a file of this folder.
    ours = ("PCS_EXTERNAL_", "PAS_", "PROJECTIONS_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"DATABASE_URL": url, "PROJECTIONS_APP": APP, **FOR_PEOPLE}
    if address is not None:
        environment |= {"PCS_EXTERNAL_API_URL": address, "PROJECTIONS_TOKEN": TOKEN}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "projections", *arguments]
        ended = subprocess.run(command, env=environment, cwd=folder, check=False)  # noqa: S603 - our own command
    if ended.returncode:
        raise ProjectionsError(f"projections {arguments[0]} ended with exit code {ended.returncode}")


def _show(url: str, waits: Waits) -> None:
    tables = new_console()
    with connect_sync(url, name="projections demo", waits=waits) as connection:
        for title, query in QUERIES:
            cursor = connection.execute(query, [APP] * query.count("%s"))
            table = Table(title=title, title_justify="left")
            for column in cursor.description or ():
                table.add_column(column.name, no_wrap=True)
            for row in cursor:
                table.add_row(*("" if value is None else visible(str(value)) for value in row))
            tables.print(table)
    tables.out(TRY_NEXT, highlight=False)


if __name__ == "__main__":
    try:
        run_demo()
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None
