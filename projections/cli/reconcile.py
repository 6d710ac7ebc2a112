"""``projections reconcile``: asks the upstream about requests whose events may be missing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from eventstore.errors import UsageError
from eventstore.ingest.config import configured_names, load_apps
from eventstore.ingest.since_setting import parse_moment
from eventstore.ingest.upstream import Upstream
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.waits import Waits, load_waits
from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.common_options import ConfigOption, JsonOption
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_message
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.reconcile_json import ReconcileDocument, describe_reconciliation
from projections.cli.shared.reconcile_output import reconciliation_lines, reconciliation_table
from projections.cli.shared.typer_app import new_app
from projections.reconciling.candidates import CandidateChoice, read_known_apps
from projections.reconciling.comparison import ReconcileVerdict
from projections.reconciling.reconcile import ReconcileReports, Reconciliation, reconcile_apps

app = new_app()

IF_INTERRUPTED = "what was found so far is in projections.reconciliations; no event and no read model was changed"


@app.command()
@handles_errors
@writes_json(ReconcileDocument)
def reconcile(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only gaps noticed and requests begun since then: a duration back from now (36h, 7d) or a time.",
        ),
    ] = None,
    app: Annotated[str | None, typer.Option("--app", callback=storable_text, help="Only this app.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Requests to ask about in each app, at the most.")] = (
        1_000
    ),
    idle_for: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Ask about an unfinished request when it has had no event for this long (1h, 2d)."
        ),
    ] = "1h",
    rate: Annotated[float, typer.Option(min=0.1, max=1_000.0, help="Calls per second to one upstream.")] = 5.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the upstream about requests whose events may be missing.

    Those are requests that a recorded gap may have hit, and unfinished requests. Each answer is compared with
    request_status and request_recipients, and saved in projections.reconciliations. Nothing else changes: no event is
    invented. Requests that were asked about least recently come first.

    Exit code 1 when an answer is not equal, or when a request could not be asked about.
    """
    now = datetime.now(UTC)
    choice = CandidateChoice(
        parse_moment(idle_for, now, name="--idle-for"),
        limit,
        parse_moment(since, now, name="--since") if since is not None else None,
    )
    waits = load_waits()
    configured = _configured(config, waits)
    url = migrated_database(waits)
    found = run_interruptible(_reconcile(url, waits, configured, app, choice, rate), if_interrupted=IF_INTERRUPTED)
    if as_json:
        print_json(describe_reconciliation(found))
    else:
        _print_found(found)
    if found.events_behind:
        print_message(
            f"request_status had not folded {counted(found.events_behind, 'event')} when this began; what they say is"
            " not in the comparison (projections wait --head waits for them)"
        )
    for name, number in found.left_out.items():
        print_message(f"{name}: {counted(number, 'more request')} not asked about: raise --limit, or run this again")
    if any(each.comparison.verdict is not ReconcileVerdict.EQUAL for each in found.requests):
        raise typer.Exit(FAILED)


def _configured(config: Path | None, waits: Waits) -> dict[str, Upstream]:
    if config is None and not configured_names():
        return {}
    return {name: one.upstream(name, waits=waits) for name, one in load_apps(config).items()}


async def _reconcile(
    url: str, waits: Waits, configured: dict[str, Upstream], only: str | None, choice: CandidateChoice, rate: float
) -> Reconciliation:
    async with await connect(url, name=session_name("reconcile"), waits=waits) as conn:
        known = sorted({*await read_known_apps(conn), *configured})
        if only is not None and only not in known:
            raise UsageError(f"app {only!r} is neither followed nor configured; known: {', '.join(known) or 'none'}")
        names = known if only is None else [only]
        upstreams: dict[str, Upstream | str] = {
            name: configured.get(name, f"app {name!r} is not configured here, so its upstream can't be asked")
            for name in names
        }
        reports = ReconcileReports(progress_lines("reconcile"), _print_wait)
        return await reconcile_apps(conn, upstreams, choice, waits, rate=rate, reports=reports)


def _print_wait(app: str, why: str, seconds: float) -> None:
    print_message(f"{app}: waiting {seconds:,.0f} s: {why}")


def _print_found(found: Reconciliation) -> None:
    if not found.requests:
        print_message("nothing to ask: no recorded gap may have hit a request, and no unfinished request is idle")
        return
    if any(each.comparison.verdict is not ReconcileVerdict.EQUAL for each in found.requests):
        new_console().print(reconciliation_table(found))
    for line in reconciliation_lines(found):
        print_data(line)
