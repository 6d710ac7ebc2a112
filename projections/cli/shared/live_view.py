"""The live view of ``projections run`` on a terminal.

What it shows while the run goes on is what costs little on any log; the last view has the whole status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Never

import psycopg
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eventstore.ingest.follower import Follower
from eventstore.postgres.connection import connect
from eventstore.postgres.outage import Outage, Report, retry_while_unavailable
from eventstore.waits import Waits
from projections.cli.shared.console import new_console
from projections.cli.shared.status_tables import projection_lines, projections_table
from projections.inspecting.health import find_projection_problems
from projections.inspecting.read_live_status import read_live_status
from projections.inspecting.read_status import read_status
from projections.inspecting.status import Status
from projections.registry import Registry
from projections.terminal_text import visible

REFRESH_SECONDS = 0.5
FINAL_READ_SECONDS = 3.0
_NAME = "projections run view"
_AT_THE_START = {"projection_new", "projection_not_folded"}


@asynccontextmanager
async def live_view(url: str, waits: Waits, registry: Registry, followers: Sequence[Follower]) -> AsyncIterator[None]:
    """Show the state of followers and projections while the block runs; log lines appear above it."""
    with Live(console=new_console(stderr=True), auto_refresh=False, transient=False) as live:
        showing = asyncio.create_task(_show(live, url, waits, registry, followers))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            # The last state stays on the terminal, so it must be the final one.
            with suppress(psycopg.Error, OSError, TimeoutError):
                async with asyncio.timeout(FINAL_READ_SECONDS), await connect(url, name=_NAME, waits=waits) as conn:
                    live.update(_render(await read_status(conn, registry), followers), refresh=True)


class _LiveReport(Report):
    """Shows the beginning of an outage in place of the state; the next state replaces it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def began(self, what: str, error: str, retry_in: float) -> None:  # noqa: ARG002 - the log has both
        self._live.update(what, refresh=True)


async def _show(live: Live, url: str, waits: Waits, registry: Registry, followers: Sequence[Follower]) -> Never:
    outage = Outage(_LiveReport(live), cap=waits.database_backoff_cap)

    async def show() -> Never:
        async with await connect(url, name=_NAME, waits=waits) as conn:
            while True:
                found = await read_live_status(conn, registry)
                outage.ended()
                status = Status(found.head, 0, 0, found.apps, found.projections)
                live.update(_render(status, followers), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)

    await retry_while_unavailable(outage, show, (psycopg.Error, OSError))


def _render(status: Status, followers: Sequence[Follower]) -> Group:
    parts: list[Table] = []
    if followers:
        apps = Table(title="upstreams", title_justify="left")
        for heading in ("app", "state"):
            apps.add_column(heading)
        for heading in ("stored", "duplicates", "quarantined"):
            apps.add_column(heading, justify="right")
        for follower in followers:
            numbers = (follower.stored, follower.duplicates, follower.quarantined)
            apps.add_row(visible(follower.app), visible(follower.state_text), *(f"{number:,}" for number in numbers))
        parts.append(apps)
    lines = [Text(visible(line)) for line in projection_lines(status)]
    found = {problem.finding.code for problem in find_projection_problems(status.projections, status.head)}
    if found - _AT_THE_START:
        lines.append(Text("projections doctor says what mends it"))
    return Group(*parts, projections_table(status, here=True), *lines)
