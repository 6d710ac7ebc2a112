"""``projections dashboard``: serves the page, metrics and health checks for a database where others run."""

from __future__ import annotations

import asyncio
from typing import Annotated

import psycopg
import typer

from eventstore.waits import Waits, load_waits
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.fast_event_loop import run_until_signalled
from projections.cli.shared.http_serving import PersonalDataOption, bind_if_given, served_over_http
from projections.cli.shared.json_documents import writes_text
from projections.cli.shared.long_running import configured_database, stop_on_signals, wait_for_database_or_stop
from projections.cli.shared.typer_app import new_app
from projections.http.read_session import ReadSession
from projections.inspecting.read_live_status import read_live_status
from projections.migrating.schema_revision import require_current_schema
from projections.registry import Registry, find_projections
from projections.running.run_parts import RunParts

app = new_app()

DEFAULT_ADDRESS = "127.0.0.1:8484"


@app.command()
@handles_errors
@writes_text("it writes a log")
def dashboard(
    *,
    http: Annotated[
        str,
        typer.Option(
            "--http", envvar="PROJECTIONS_HTTP", metavar="HOST:PORT", help="Where; :PORT is for this machine only."
        ),
    ] = DEFAULT_ADDRESS,
    http_personal_data: PersonalDataOption = False,
) -> None:
    """Serve a page, metrics and health checks over HTTP, read-only.

    For a database where other processes follow the upstreams and fold: this one only reads, whatever they do. Runs
    until SIGINT or SIGTERM.
    """
    run_until_signalled(_serve(http, personal_data=http_personal_data))


async def _serve(http: str, *, personal_data: bool) -> None:
    waits = load_waits()
    registry = find_projections()
    bound = bind_if_given(http or DEFAULT_ADDRESS, personal_data=personal_data)
    stop = stop_on_signals(waits)
    url = await configured_database()
    async with served_over_http(bound, url, waits, registry, RunParts()):
        if await wait_for_database_or_stop(url, stop, waits, writes=False):
            await asyncio.to_thread(require_current_schema, url)
            await _require_privileges(url, waits, registry)
            await stop.wait()


async def _require_privileges(url: str, waits: Waits, registry: Registry) -> None:
    """Refuse a role that may not read what the page shows; every other failure is the page's to show."""
    reading = ReadSession(url, waits, "start")
    try:
        async with reading.session() as conn:
            await read_live_status(conn, registry)
    except psycopg.errors.InsufficientPrivilege:
        raise
    except (psycopg.Error, OSError, TimeoutError):
        pass
    finally:
        await reading.close()
