"""What there is to know at a glance: upstreams, projections, quarantine, and what no read model folds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from eventstore.appending.server_clock import AheadOfClock, find_events_ahead_of_clock
from eventstore.contracts.event_types import EventType
from eventstore.event_reader import HEAD
from eventstore.locks import app_lock
from eventstore.postgres.lock_holder import find_holder
from eventstore.postgres.queries import fetch_all, fetch_row, fetch_value
from projections.errors import describe_user_code_error
from projections.folding.run_statement import fetch_rows
from projections.migrating.schema_drift import find_drift
from projections.migrating.user_tables import missing_table
from projections.projection import Projection
from projections.registry import Registry
from projections.running.checkpoint import State
from projections.running.folding_sessions import FoldingSession, find_folding_sessions
from projections.running.state_changes import describe_ahead_of_log, describe_older_rows

NEW = "new"
"""The state of a projection before its first run."""


@dataclass(frozen=True)
class AppStatus:
    """An app's stream.

    ``followed_by`` is the session that follows it now, None when none does; ``refused_at`` is since when it is refused,
    None unless it is, and ``retry_at`` when it is tried again, None for never; ``went_back`` says when the database
    lost committed events, oldest first (``noticed_at``, ``from`` and ``to`` positions); times are in UTC.

    ``quarantined`` counts messages that are kept, repetitions left out. ``quarantined_messages`` counts all that came
    (by reason in ``quarantine_reasons``), and ``quarantined_not_kept`` those of them whose bytes were not kept, since
    the quarantine was full: it is since ``quarantine_full_since``, None while there is room.
    """

    app: str
    contract: str | None
    last_event_id: str | None
    last_received_at: datetime | None
    holes: int
    last_error: str | None
    quarantined: int
    went_back: list[dict[str, Any]]
    followed_by: str | None = None
    refused_at: datetime | None = None
    retry_at: datetime | None = None
    quarantined_messages: int = 0
    quarantined_not_kept: int = 0
    quarantine_full_since: datetime | None = None
    quarantine_reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Skip:
    """An event that a projection passes over, why, and since when."""

    event_id: str
    why: str
    skipped_at: datetime


@dataclass(frozen=True)
class ProjectionStatus:
    """A projection, as its checkpoint and this code have it.

    ``state`` is the checkpoint's, or ``new`` before its first run; ``version`` is the rows', ``code_version`` this
    code's (None for a projection that isn't installed here); ``redecoded_at`` is when events that it folded were read
    otherwise (None since it was rebuilt); ``skipped`` counts events passed over, and ``skips`` are these; ``folded_by``
    are the sessions that fold it now. ``problem`` is what somebody must do something about, besides the error;
    ``note`` is that, or else what is good to know.
    """

    name: str
    state: str
    version: int | None
    code_version: int | None
    position: int
    events_behind: int
    seconds_behind: float
    last_error: str | None
    last_error_at: datetime | None
    retry_at: datetime | None
    redecoded_at: datetime | None
    skipped: int
    note: str | None = None
    skips: tuple[Skip, ...] = ()
    folded_by: tuple[FoldingSession, ...] = ()
    problem: str | None = None

    @property
    def shown_state(self) -> str:
        """The state, for people: one that is to run and that nobody folds stands still."""
        return "stopped (nobody folds)" if self.state == State.RUNNING and not self.folded_by else self.state


@dataclass(frozen=True)
class Status:
    """Everything at one moment.

    ``head`` is the last position; ``without_request`` counts events that name no request, which tables keyed by it
    ignore; ``unknown_types`` counts events of types that no read model knows. ``counts`` are those that projections
    declare (their ``status_query``), and ``remarks`` the sentences about them. ``ahead_of_clock`` are the last events,
    when their times are ahead of the database server's clock. ``schema`` has a sentence for each promise of the schema
    that doesn't hold.
    """

    head: int
    without_request: int
    unknown_types: int
    apps: list[AppStatus]
    projections: list[ProjectionStatus]
    counts: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    ahead_of_clock: AheadOfClock | None = None
    schema: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, times as ISO text."""
        plain: dict[str, Any] = _plain(asdict(self))
        del plain["remarks"]  # sentences for people, made of the counts
        counts: dict[str, Any] = plain.pop("counts")
        return counts | plain


_APPS = """
SELECT app, contract, last_event_id, last_received_at, jsonb_array_length(holes) AS holes, last_error, went_back,
       refused_at, retry_at, (SELECT count(*) FROM eventstore.quarantine AS q WHERE q.app = c.app) AS quarantined,
       coalesce(n.messages, 0)::bigint AS quarantined_messages, coalesce(n.not_kept, 0)::bigint AS quarantined_not_kept,
       (SELECT full_since FROM eventstore.quarantine_usage AS u WHERE u.app = c.app) AS quarantine_full_since,
       coalesce(n.reasons, '{}') AS quarantine_reasons
FROM eventstore.cursors AS c, LATERAL (
    SELECT sum(messages) AS messages, sum(not_kept) AS not_kept, jsonb_object_agg(reason, messages) AS reasons
    FROM eventstore.quarantine_counts AS q WHERE q.app = c.app) AS n
ORDER BY app
"""
_COUNTS = sql.SQL("""
SELECT {head},
       (SELECT count(*) FROM eventstore.events WHERE send_request_id IS NULL),
       (SELECT count(*) FROM eventstore.events WHERE event_type < {first} OR event_type > {last})
""").format(head=sql.SQL(HEAD), first=sql.Literal(int(min(EventType))), last=sql.Literal(int(max(EventType))))
_PROJECTIONS = """
SELECT c.name, c.state, c.version, NULL::integer AS code_version, c.position, f.events_behind, f.seconds_behind,
       c.last_error, c.last_error_at, c.retry_at, c.redecoded_at,
       (SELECT count(*) FROM projections.skips AS s WHERE s.name = c.name AND s.version = c.version) AS skipped
FROM projections.checkpoints AS c JOIN public.read_model_freshness AS f ON f.read_model = c.name ORDER BY c.name
"""


_SKIPS = """
SELECT s.name, s.event_id, s.why, s.skipped_at
FROM projections.skips AS s JOIN projections.checkpoints AS c ON c.name = s.name AND c.version = s.version
ORDER BY s.name, s.skipped_at, s.event_id
"""
_LACKING = """
SELECT name, CASE WHEN is_there THEN string_agg(of, ', ' ORDER BY number) END
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS owned (schema, name, of, number),
     to_regclass(format('%%I.%%I', schema, name)) AS there, LATERAL (SELECT there IS NOT NULL AS is_there) AS said
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = there AND attname = of AND NOT attisdropped)
GROUP BY schema, name, is_there
"""
_SINCE_FIRST = (
    "SELECT coalesce(greatest(extract(epoch FROM clock_timestamp() - received_at), 0), 0)::double precision"
    " FROM eventstore.events ORDER BY position LIMIT 1"
)


async def read_status(conn: AsyncConnection[Any], registry: Registry) -> Status:
    """Read the status.

    Args:
        conn: an autocommit connection.
        registry: the projections of this code.

    """
    async with conn.cursor(row_factory=class_row(AppStatus)) as cursor:
        apps = await fetch_all(cursor, _APPS)
    apps = [await _with_holder(conn, app) for app in apps]
    async with conn.cursor(row_factory=class_row(ProjectionStatus)) as cursor:
        found = {one.name: one for one in await fetch_all(cursor, _PROJECTIONS)}
    skips: dict[str, list[Skip]] = {}
    for name, event_id, why, skipped_at in await fetch_all(conn, _SKIPS):
        skips.setdefault(name, []).append(Skip(event_id, why, skipped_at))
    counts = await fetch_row(conn, _COUNTS)
    head, without_request, unknown_types = counts or (0, 0, 0)
    declared, remarks = await _declared_counts(conn, registry)
    waited = await fetch_value(conn, _SINCE_FIRST) or 0.0
    lacking = await _lacking(conn, registry)
    names = sorted({*found, *registry.projections, *registry.broken})
    folders = await find_folding_sessions(conn, names)
    projections = []
    for name in names:
        projection = registry.projections.get(name)
        problem = _problem(found.get(name), name, registry, lacking, head)
        projections.append(
            replace(
                found.get(name) or _new(name, head, waited),
                code_version=projection.version if projection else None,
                note=problem or (_remark(projection, apps) if projection else None),
                problem=problem,
                skips=tuple(skips.get(name, ())),
                folded_by=folders.get(name, ()),
            )
        )
    schema = [drift.sentence for drift in await find_drift(conn)]
    status = Status(head, without_request, unknown_types, apps, projections, declared, remarks)
    return replace(status, ahead_of_clock=await find_events_ahead_of_clock(conn), schema=schema)


async def _declared_counts(conn: AsyncConnection[Any], registry: Registry) -> tuple[dict[str, int], list[str]]:
    """Return the counts that projections declare, by name, and the sentences about them."""
    found: dict[str, int] = {}
    remarks: list[str] = []
    for projection in registry.projections.values():
        if projection.status_query is None:
            continue
        try:
            (counts,) = await fetch_rows(conn, projection.status_query)
            remark = projection.describe_counts(counts)
        except psycopg.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - a projection that others wrote may raise anything; status still works
            remark = f"{projection.name}: its counts can't be shown: {describe_user_code_error(error)}"
            counts = {}
        found |= counts
        remarks += [remark] if remark else []
    return found, remarks


async def _lacking(conn: AsyncConnection[Any], registry: Registry) -> dict[str, str | None]:
    """Return, by table, the columns that the database lacks; None for the whole table."""
    columns = [c for one in registry.projections.values() for table in one.tables for c in table.columns]
    owned = ([c.table.schema for c in columns], [c.table.name for c in columns], [c.name for c in columns])
    return dict(await fetch_all(conn, _LACKING, owned))


async def _with_holder(conn: AsyncConnection[Any], app: AppStatus) -> AppStatus:
    holder = await find_holder(conn, app_lock(app.app))
    name = (holder.application_name or f"backend {holder.pid}") if holder else None
    return AppStatus(**{**asdict(app), "followed_by": name})


def _new(name: str, head: int, waited: float) -> ProjectionStatus:
    return ProjectionStatus(name, NEW, None, None, 0, head, waited, None, None, None, None, 0)


def _problem(
    row: ProjectionStatus | None, name: str, registry: Registry, lacking: dict[str, str | None], head: int
) -> str | None:
    """Return what somebody must do something about, and its checkpoint doesn't tell."""
    projection = registry.projections.get(name)
    if projection is None:
        return registry.broken.get(name, "not installed here")
    for table in projection.tables:
        if table.name in lacking:
            columns = lacking[table.name]
            if columns is None:
                return missing_table(table.name)
            return f"table {table.name} lacks {columns}; run projections migrate"
    return _of_rows(row, projection, head) if row is not None else None


def _remark(projection: Projection, apps: list[AppStatus]) -> str | None:
    without = [app for app in apps if app.contract in projection.absent_contracts]
    if not without:
        return None
    contracts = ", ".join(sorted({str(app.contract) for app in without}))
    names = ", ".join(app.app for app in without)
    return f"no rows for {names}: contract {contracts} has none of the events that {projection.name} folds"


def _of_rows(row: ProjectionStatus, projection: Projection, head: int) -> str | None:
    rebuild = f"run projections rebuild {row.name}"
    if row.position > head:
        return describe_ahead_of_log(row.name, row.position, head)
    if row.version is not None and row.version > projection.version:
        return f"this code is older (version {projection.version}) than the rows (version {row.version})"
    if row.version is not None and row.version < projection.version:
        return None if row.last_error else describe_older_rows(row.name, projection.version)
    if row.redecoded_at is not None:
        return f"events that it folded read otherwise since projections redecode: {rebuild}"
    return None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
