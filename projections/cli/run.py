"""``projections run``: follows the configured upstreams and keeps the read models up to date."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.ingest.config import load_apps, reloader
from eventstore.ingest.context import IngestContext
from eventstore.ingest.follower import Follower
from eventstore.waits import load_waits
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.common_options import ConfigOption, GiveUpOption, SinceOption, check_give_up
from projections.cli.shared.completed_values import complete_projection
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.fast_event_loop import run_until_signalled
from projections.cli.shared.http_serving import (
    HttpOption,
    PersonalDataOption,
    bind_if_given,
    served_over_http,
)
from projections.cli.shared.json_documents import writes_text
from projections.cli.shared.live_view import live_view
from projections.cli.shared.long_running import (
    configured_database,
    print_ingest_outcome,
    stop_on_signals,
    wait_for_database_or_stop,
)
from projections.cli.shared.open_database import refuse_named
from projections.cli.shared.output import (
    FAILED,
    LogLevel,
    counted,
    print_left_out,
    print_message,
    stderr_is_interactive,
)
from projections.cli.shared.service_manager import service_manager_notified
from projections.cli.shared.typer_app import new_app
from projections.granting.role_kinds import RoleKind
from projections.http.http_options import HttpOptions
from projections.http.http_server import BoundAddress
from projections.migrating.schema_revision import require_current_schema
from projections.registry import find_projections
from projections.running.garbage_collection import tune_garbage_collection
from projections.running.run_context import RunContext
from projections.running.run_parts import RunParts
from projections.running.supervisor import RunOutcome, run_projections
from projections.running.worker import Worker
from projections.settings import load_worker_settings

app = new_app()


@app.command()
@handles_errors
@writes_text("it writes a log")
def run(  # noqa: PLR0913 - one for each option
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Projections to run; default: all.", autocompletion=complete_projection),
    ] = None,
    *,
    ingest: Annotated[bool, typer.Option(help="Also follow the configured upstreams.")] = True,
    until_idle: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_UNTIL_IDLE",
            min=0.0,
            callback=seconds,
            metavar="SECONDS",
            help="Exit when no new event has arrived for this long and every event is folded. With --no-ingest: when "
            "every event has been folded for this long.",
        ),
    ] = None,
    give_up_after: GiveUpOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            envvar="PROJECTIONS_BATCH_SIZE",
            min=1,
            help="Maximum events per transaction. Default: 10000, and more while far behind.",
        ),
    ] = None,
    config: ConfigOption = None,
    since: SinceOption = None,
    http: HttpOption = None,
    http_personal_data: PersonalDataOption = False,
) -> None:
    """Follow the upstreams and keep the read models up to date.

    You may start several processes: only one follows an app at a time, and only one folds a projection at a time. A
    refused app is tried again every PROJECTIONS_REFUSED_RETRY seconds; with --until-idle it counts as done. Runs until
    SIGINT or SIGTERM, or until idle.

    Exit code 0; 1 when an app is refused at the end, when received events were not stored, or (with --until-idle) when
    a projection is paused, waiting or failed, or the run gave up; 2 when the configuration is wrong.
    """
    check_give_up(until_idle, give_up_after)
    bound = bind_if_given(http, personal_data=http_personal_data)
    outcome = run_until_signalled(
        _run(names or [], ingest, until_idle, give_up_after, batch_size, config, since, bound)
    )
    succeeded = True
    if outcome.ingest is not None:
        succeeded = print_ingest_outcome(outcome.ingest)
    for name, why in outcome.stopped.items():
        print_message(f"projections: {name} is {why}", level=LogLevel.ERROR)
    if outcome.gave_up is not None:
        print_message(f"projections: {outcome.gave_up}", level=LogLevel.ERROR)
    if not succeeded or outcome.stopped or outcome.gave_up is not None:
        raise typer.Exit(FAILED)


async def _run(
    names: list[str],
    ingest: bool,  # noqa: FBT001 - passed on
    until_idle: float | None,
    give_up_after: float | None,
    batch_size: int | None,
    config: Path | None,
    since: str | None,
    bound: tuple[HttpOptions, BoundAddress] | None,
) -> RunOutcome:
    waits = load_waits()
    limits, key = load_quarantine_limits(), load_erasure_key()
    settings = load_worker_settings(batch_size)
    registry = find_projections()
    projections = registry.select(names)
    broken = {} if names else registry.broken
    print_left_out(broken)
    apps = load_apps(config) if ingest else {}
    upstreams = [app.upstream(name, waits=waits, since=since) for name, app in apps.items()]
    stop = stop_on_signals(waits)
    url = await configured_database()
    context, ingest_context = RunContext(url, waits, settings), IngestContext(url, waits, limits, key)
    workers = [Worker(context, projection) for projection in projections.values()]
    followers = [
        Follower(ingest_context, upstream, reload=reloader(config, upstream.app, waits=waits, since=since))
        for upstream in upstreams
    ]
    kinds = [*([RoleKind.INGEST] if followers else []), *([RoleKind.WORKER] if workers else [])]
    parts = RunParts(workers, followers, stop=stop)
    async with served_over_http(bound, url, waits, registry, parts):
        if not await wait_for_database_or_stop(url, stop, waits):
            return RunOutcome(None)
        refuse_named(names, await asyncio.to_thread(require_current_schema, url, projections.values(), kinds=kinds))
        view = live_view(url, waits, registry, followers) if stderr_is_interactive() else nullcontext()
        doing = f"following {counted(len(followers), 'app')}, folding {counted(len(workers), 'projection')}"
        async with view, service_manager_notified(stop, doing):
            tune_garbage_collection()
            outcome = await run_projections(
                context,
                workers,
                followers,
                stop=stop,
                until_idle=until_idle,
                give_up_after=give_up_after,
                parts=parts,
            )
    left_out = {name: f"left out: {why}" for name, why in broken.items()}
    return RunOutcome(outcome.ingest, outcome.stopped | left_out, outcome.gave_up)
