"""The tables that commands print."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table

from eventstore.appending.server_clock import AheadOfClock
from eventstore.consuming.consumers import ConsumerStatus
from projections.cli.shared.value_text import format_value
from projections.inspecting.status import NEW, AppStatus, Status
from projections.running.checkpoint import ProjectionState
from projections.running.folding_sessions import FoldingSession
from projections.terminal_text import visible


def projections_table(status: Status, *, here: bool = False) -> Table:
    """Return one row for each projection.

    Args:
        status: what was found.
        here: whether this process folds, and may just have ended: then the states are the checkpoints'.

    """
    table = Table(title=f"projections (head {status.head:,})", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("position", "behind", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in status.projections:
        table.add_row(
            visible(one.name),
            visible(one.state if here else one.shown_state),
            f"{one.position:,}",
            f"{one.events_behind:,}",
            f"{one.seconds_behind:.1f}",
        )
    return table


def projection_lines(status: Status) -> list[str]:
    """Return what is too long for a table: why a projection has stopped, and which events it skips."""
    lines = []
    for one in status.projections:
        if one.last_error:
            since = f" since {format_value(one.last_error_at)}" if one.last_error_at else ""
            again = f", next attempt at {format_value(one.retry_at)}" if one.state == "failed" and one.retry_at else ""
            lines.append(f"{one.name} is {one.state}{since}{again}: {one.last_error}")
        if one.note:
            lines.append(f"{one.name}: {one.note}")
        lines += [f"{one.name} skips event {skip.event_id}: {skip.why}" for skip in one.skips]
    return lines


def folding_process_lines(status: Status) -> list[str]:
    """Return which process folds what: one line for each process, and one for what no process folds."""
    names: dict[FoldingSession | tuple[str, int] | None, list[str]] = {}
    seen: dict[FoldingSession | tuple[str, int] | None, list[datetime]] = {}
    for one in status.projections:
        stands_still = one.state in (ProjectionState.PAUSED, NEW) or one.code_version is None
        for folder in one.folded_by or ((None,) if not stands_still else ()):
            who = (folder.host, folder.pid) if folder and folder.host is not None and folder.pid is not None else folder
            if one.name not in names.setdefault(who, []):
                names[who].append(one.name)
            seen.setdefault(who, []).extend([folder.seen_at] if folder and folder.seen_at else [])
    lines = []
    for who, folded in names.items():
        what = ", ".join(folded)
        if who is None:
            lines.append(f"nobody folds {what}: start projections run")
            continue
        process = f"backend {who.backend} of Postgres" if isinstance(who, FoldingSession) else f"{who[0]}:{who[1]}"
        when = f"last active {format_value(max(seen[who]))}" if seen[who] else "last active: unknown to this role"
        lines.append(f"{what}: folded by {process} ({when})")
    return lines


def consumers_table(consumers: list[ConsumerStatus]) -> Table:
    """Return one row for each named consumer."""
    table = Table(title="consumers", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("position", "behind", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("held by", overflow="fold")
    for one in consumers:
        table.add_row(
            visible(one.name),
            f"{one.position:,}",
            f"{one.events_behind:,}",
            f"{one.seconds_behind:.1f}",
            visible(consumer_holder(one)),
        )
    return table


def consumer_holder(one: ConsumerStatus) -> str:
    """Return the process that has a consumer, or nobody."""
    return (one.held_by or "nobody").removeprefix(f"projections consume {one.name} ")


def consumer_lines(consumers: list[ConsumerStatus]) -> list[str]:
    """Return what is too long for a table: which consumers don't get ahead."""
    lines = []
    for one in consumers:
        if not one.is_in_log:
            lines.append(
                f"{one.name}: its checkpoint is not in the log, which was replaced or lost events; decide where it goes"
                f" on: projections consumers reset {one.name} --to POSITION"
            )
        elif one.attempts > 1:
            lines.append(
                f"{one.name}: the events after position {one.position:,} were handed out {one.attempts:,} times and not"
                " acknowledged; see the log of its program"
            )
    return lines


def apps_table(status: Status) -> Table:
    """Return one row for each app."""
    table = Table(title="upstreams", title_justify="left")
    # Without the rare last column it fits into 80 columns; in a narrower terminal texts are wrapped, not cut.
    are_limited = any(app.quarantined_not_kept for app in status.apps)
    for heading in ("app", "contract"):
        table.add_column(heading, overflow="fold")
    table.add_column("cursor", no_wrap=True)
    for heading in ("gaps", "quarantined", *(["not kept"] if are_limited else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for app in status.apps:
        numbers = [str(app.holes), f"{app.quarantined_messages:,}"]
        if are_limited:
            numbers.append(f"{app.quarantined_not_kept:,}")
        texts = (app.app, app.contract or "not yet known", app.last_event_id or "none yet")
        table.add_row(*map(visible, texts), *numbers)
    return table


def app_lines(status: Status) -> list[str]:
    """Return what is too long for a table: who follows each app, and its last error."""
    lines = []
    for app in status.apps:
        follower = (app.followed_by or "nobody").removeprefix(f"projections ingest {app.app} ")
        lines.append(f"{app.app} is followed by {follower}" + _trouble(app))
        if app.went_back:
            last = app.went_back[-1]
            lines.append(
                f"{app.app}: the database lost committed events (a failover or a restore): the log ended at position"
                f" {last['from']:,} and now at {last['to']:,}, noticed at {last['noticed_at']}; anyone who read"
                f" beyond position {last['to']:,} must read again from {last['to']:,}"
            )
        if app.quarantined_not_kept:
            lines.append(_about_quarantine(app))
    return lines


def _about_quarantine(app: AppStatus) -> str:
    """Return a sentence: an app's quarantine is or was full, with the numbers and what to do."""
    state = f"is full since {format_value(app.quarantine_full_since)}" if app.quarantine_full_since else "was full"
    reasons = ", ".join(f"{count:,} because {reason}" for reason, count in sorted(app.quarantine_reasons.items()))
    return (
        f"{app.app}: the quarantine {state}: of {app.quarantined_messages:,} quarantined messages, "
        f"{app.quarantined_not_kept:,} were counted but not kept ({reasons}); look at them with "
        "projections quarantine list; to make room, use projections quarantine drop, or raise"
        " PROJECTIONS_QUARANTINE_MAX_ROWS or PROJECTIONS_QUARANTINE_MAX_BYTES"
    )


def _trouble(app: AppStatus) -> str:
    """Return an app's last error after a semicolon; an empty text if it has none."""
    if not app.last_error:
        return ""
    if app.refused_at is None:
        return f"; {app.last_error}"
    if app.retry_at is None:
        again = "trying again now" if app.followed_by else "the next attempt is made when a process follows it"
    elif app.retry_at > datetime.now(UTC):
        again = f"next attempt at {format_value(app.retry_at)}"
    else:
        again = f"the attempt of {format_value(app.retry_at)} is overdue: no process follows it"
    return f"; refused since {format_value(app.refused_at)}, {again}: {app.last_error}"


def clock_behind_sentence(ahead: AheadOfClock) -> str:
    """Return a sentence about events whose times are ahead of the database server's clock."""
    return (
        f"The database server's clock is {ahead.seconds:,.0f} s behind the time of the last event"
        f" ({format_value(ahead.received_at)}): it was ahead when positions {ahead.first:,} to {ahead.last:,} were"
        " stored."
        " New events get that same time until the clock has caught up, so --as-of TIME can't separate these events;"
        " use an event_id."
    )
