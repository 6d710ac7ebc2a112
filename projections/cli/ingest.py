"""``projections ingest``: follows the configured upstreams."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.ingest.config import load_apps, reloader
from eventstore.ingest.context import IngestContext
from eventstore.ingest.follow_apps import Outcome, follow
from eventstore.ingest.follower import Follower
from eventstore.waits import load_waits
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.common_options import ConfigOption, GiveUpOption, SinceOption, check_give_up
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.fast_event_loop import run_until_signalled
from projections.cli.shared.http_serving import (
    HttpOption,
    PersonalDataOption,
    bind_if_given,
    served_over_http,
)
from projections.cli.shared.json_documents import writes_text
from projections.cli.shared.long_running import (
    configured_database,
    print_ingest_outcome,
    stop_on_signals,
    wait_for_database_or_stop,
)
from projections.cli.shared.output import FAILED, counted
from projections.cli.shared.service_manager import service_manager_notified
from projections.cli.shared.typer_app import new_app
from projections.granting.role_kinds import RoleKind
from projections.http.http_options import HttpOptions
from projections.http.http_server import BoundAddress
from projections.migrating.schema_revision import require_current_schema
from projections.registry import Registry, find_projections
from projections.running.garbage_collection import tune_garbage_collection
from projections.running.run_parts import RunParts

app = new_app()


@app.command()
@handles_errors
@writes_text("it writes a log")
def ingest(
    *,
    config: ConfigOption = None,
    until_idle: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_UNTIL_IDLE",
            min=0.0,
            callback=seconds,
            metavar="SECONDS",
            help="Exit when no new event has arrived for this long.",
        ),
    ] = None,
    give_up_after: GiveUpOption = None,
    since: SinceOption = None,
    http: HttpOption = None,
    http_personal_data: PersonalDataOption = False,
) -> None:
    """Follow the upstreams and store their events, without folding.

    Events are stored in eventstore.events, unchanged and exactly once. A refused app is tried again every
    PROJECTIONS_REFUSED_RETRY seconds; with --until-idle it counts as done. Runs until SIGINT or SIGTERM, or until idle.

    Exit code 0; 1 when an app is refused at the end, when received events were not stored, or when the run gave up; 2
    when the configuration is wrong.
    """
    check_give_up(until_idle, give_up_after)
    bound = bind_if_given(http, personal_data=http_personal_data)
    if not print_ingest_outcome(run_until_signalled(_ingest(config, until_idle, give_up_after, since, bound))):
        raise typer.Exit(FAILED)


async def _ingest(
    config: Path | None,
    until_idle: float | None,
    give_up_after: float | None,
    since: str | None,
    bound: tuple[HttpOptions, BoundAddress] | None,
) -> Outcome:
    waits = load_waits()
    limits, key = load_quarantine_limits(), load_erasure_key()
    upstreams = [app.upstream(name, waits=waits, since=since) for name, app in load_apps(config).items()]
    stop = stop_on_signals(waits)
    url = await configured_database()
    context = IngestContext(url, waits, limits, key)
    followers = [
        Follower(context, upstream, reload=reloader(config, upstream.app, waits=waits, since=since))
        for upstream in upstreams
    ]
    registry = find_projections() if bound is not None else Registry({}, {})
    parts = RunParts(followers=followers, stop=stop)
    async with served_over_http(bound, url, waits, registry, parts):
        if not await wait_for_database_or_stop(url, stop, waits):
            return Outcome(0, 0, 0)
        await asyncio.to_thread(require_current_schema, url, kinds=[RoleKind.INGEST])
        async with service_manager_notified(stop, f"following {counted(len(followers), 'app')}"):
            tune_garbage_collection()
            following = follow(
                followers,
                stop=stop,
                waits=waits,
                until_idle=until_idle,
                give_up_after=give_up_after,
            )
            parts.tasks["ingest"] = task = asyncio.create_task(following, name="ingest")
            return await task
