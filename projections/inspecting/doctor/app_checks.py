"""Checks of the apps: who follows each, whether it is silent, its gaps, and whether the log went back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime

from eventstore.postgres.queries import fetch_value
from eventstore.postgres.session_lock import is_session_of
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding
from projections.inspecting.health import find_app_problems, format_utc
from projections.inspecting.status import AppStatus


async def check_apps(exam: Examination) -> AsyncIterator[Finding]:
    """Find apps that nobody follows, that are refused, failing or silent; and gaps and losses that were recorded."""
    options, apps = exam.options, await exam.apps()
    now = await fetch_value(exam.conn, "SELECT clock_timestamp()")
    for problem in find_app_problems(apps, options.configured):
        if problem.finding.code != "quarantine_full":  # with the quarantine's other findings
            yield problem.finding
    for app in apps:
        for finding in _remarks(app, now, options.limits.quiet, options.max_silence):
            yield finding


def _remarks(app: AppStatus, now: datetime, quiet: float, max_silence: float | None) -> Iterator[Finding]:
    """Yield what is good to know about an app, and whether it is silent for too long."""
    since = format_utc(app.last_received_at) if app.last_received_at else None
    silent = (now - app.last_received_at).total_seconds() if app.last_received_at else None
    is_follower = is_session_of(app.followed_by, "ingest")
    what = f"app {app.app!r} has sent no event" + (f" since {since}" if since else " yet")
    if silent is not None and max_silence is not None and silent > max_silence:
        sentence = f"{what} ({silent:,.0f} s); the limit is {max_silence:g} s"
        yield Finding("app_silent", sentence, "projections cursor show", "ask the platform; where the stream resumes")
    elif is_follower and not app.last_error and (silent is None or silent > quiet):
        yield Finding("app_quiet", f"{what}, although {_process(app.followed_by)} follows it and its stream works")
    if app.followed_by is not None and not (is_follower or app.followed_by.startswith("backend ")):
        yield Finding("app_held", f"app {app.app!r} can't be followed now: its lock is held by {app.followed_by}")
    if app.holes:
        many = "1 gap" if app.holes == 1 else f"{app.holes:,} gaps"
        sentence = f"app {app.app!r} has {many}: events that the upstream can no longer replay"
        yield Finding("app_gap", sentence, f"projections reconcile --app {app.app}", "to see what is missing")
    if app.went_back:
        last = app.went_back[-1]
        sentence = (
            f"the database lost committed events at positions {last['to'] + 1:,} to {last['from']:,} (noticed at"
            f" {last['noticed_at']}, by the follower of app {app.app!r}); other events may be at these positions now"
        )
        advice = f"whoever read beyond position {last['to']:,} must read again from there"
        yield Finding("log_went_back", sentence, advice=advice)


def _process(session: str | None) -> str:
    """Return the host and the process in the name of a follower's session."""
    return (session or "").rpartition(" ")[2]
