"""Checks of clocks: the database server's against the stored events and against this machine's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from eventstore.appending.server_clock import find_events_ahead_of_clock
from eventstore.postgres.queries import fetch_value
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding
from projections.inspecting.health import format_utc

_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"


async def check_stored_times(exam: Examination) -> AsyncIterator[Finding]:
    """Find events whose time is ahead of the server's clock."""
    ahead = await find_events_ahead_of_clock(exam.conn)
    if ahead is not None:
        sentence = (
            f"the database server's clock is {ahead.seconds:,.0f} s behind the time of the last event"
            f" ({format_utc(ahead.received_at)}): it was ahead when positions {ahead.first:,} to {ahead.last:,} were"
            " stored"
        )
        yield Finding("clock_behind_events", sentence, advice="synchronise the server's clock")


async def check_clocks(exam: Examination) -> AsyncIterator[Finding]:
    """Compare this machine's clock with the server's; the time of the round trip counts for neither."""
    before = exam.options.clock()
    servers = float(await fetch_value(exam.conn, _NOW))
    after = exam.options.clock()
    apart = max(servers - after, before - servers)
    if apart > exam.options.limits.clock:
        which = "behind" if servers > after else "ahead of"
        sentence = f"this machine's clock is {apart:,.0f} s {which} the database server's"
        yield Finding("clock_differs", sentence, advice="synchronise both clocks")
