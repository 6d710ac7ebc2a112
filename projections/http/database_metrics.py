"""The metrics that are read from the database: they are the same in every process that uses the database.

Lag is measured against the head of the log that is stored there, and positions are those of the checkpoints, whichever
process folds. While the database is unavailable only ``projections_database_up`` is left: an old number would look like
a current one.
"""

from __future__ import annotations

from datetime import datetime

from eventstore.consuming.consumers import ConsumerStatus
from projections.http.metric_catalogue import MetricCatalogue, MetricDefinition, Samples
from projections.http.status_source import Reading
from projections.inspecting.live_status import DatabaseLoad, LiveStatus, RunningRebuild
from projections.inspecting.status import NEW, AppStatus, ProjectionStatus
from projections.running.checkpoint import ProjectionState

STATES = (NEW, *(state.value for state in ProjectionState))

CATALOGUE = MetricCatalogue()
_gauge, _counter = CATALOGUE.gauge, CATALOGUE.counter

UP = _gauge("projections_database_up", "1 if the database answered, else 0; then all that is read from it is missing")
READ_SECONDS = _gauge("projections_status_read_seconds", "How long reading the metrics from the database took")

LOG_EVENTS = _counter("projections_log_events_total", "Events stored in the log: the position of its head")
LAST_APPEND = _gauge("projections_log_last_append_timestamp_seconds", "When the last event was stored")

LAST_ERASURE = _gauge("projections_last_erasure_timestamp_seconds", "When a person was last erased")

STATE = _gauge("projections_state", "1 for the projection's state, 0 for the other states", "projection", "state")
LAG_EVENTS = _gauge("projections_lag_events", "Stored events that are not folded yet", "projection")
LAG_SECONDS = _gauge("projections_lag_seconds", "How long the first event that is not folded has waited", "projection")
POSITION = _gauge("projections_position", "The position up to which every event is folded", "projection")
FOLDED = _counter("projections_folded_events_total", "Events folded by all processes, without rebuilds", "projection")
LAST_FOLD = _gauge("projections_last_fold_timestamp_seconds", "When the last window was folded", "projection")
LAST_WINDOW = _gauge("projections_last_window_seconds", "How long folding the last window took", "projection")
SESSIONS = _gauge("projections_folding_sessions", "Sessions that fold the projection, of all processes", "projection")
FAILURES = _gauge("projections_consecutive_failures", "Failures since the last window was folded", "projection")
SKIPPED = _gauge("projections_skipped_events", "Events that the projection skips", "projection")
NEEDS_REBUILD = _gauge(
    "projections_needs_rebuild",
    "1 if the rows need a rebuild (older code, changed events, or a log that lost events), else 0",
    "projection",
)
REBUILD_PROGRESS = _gauge(
    "projections_rebuild_progress_ratio",
    "How much of the log a running rebuild has folded, from 0 to 1; schema is empty unless it is one as of a time",
    "projection",
    "schema",
)
REBUILD_STARTED = _gauge(
    "projections_rebuild_started_timestamp_seconds", "When the running rebuild started", "projection", "schema"
)

APP_FOLLOWED = _gauge("projections_app_followed", "1 if a process follows the app, else 0", "app")
APP_REFUSED = _gauge("projections_app_refused", "1 if the upstream refuses the app, else 0", "app")
APP_FAILING = _gauge("projections_app_failing", "1 if the app's stream failed last, else 0", "app")
APP_LAST_EVENT = _gauge("projections_app_last_event_timestamp_seconds", "When the last event was received", "app")
APP_GAPS = _gauge("projections_app_gaps", "Gaps: ranges of events that the upstream can no longer replay", "app")
APP_LOSSES = _gauge("projections_app_lost_commits", "How often the database lost committed events", "app")
QUARANTINED = _counter("projections_quarantined_messages_total", "Messages quarantined, kept or not", "app")
QUARANTINE_KEPT = _gauge("projections_quarantine_kept_messages", "Quarantined messages that are kept", "app")
QUARANTINE_FULL = _gauge("projections_quarantine_full", "1 if the quarantine is full, else 0", "app")

CONSUMER_LAG_EVENTS = _gauge(
    "projections_consumer_lag_events",
    "Stored events after the checkpoint of a named consumer, those that its filters leave out included",
    "consumer",
)
CONSUMER_LAG_SECONDS = _gauge(
    "projections_consumer_lag_seconds", "How long the first event after its checkpoint has waited", "consumer"
)
CONSUMER_POSITION = _gauge(
    "projections_consumer_position", "The position up to which every event is acknowledged", "consumer"
)
CONSUMER_HELD = _gauge("projections_consumer_held", "1 if a process has the consumer, else 0", "consumer")
CONSUMER_EVENTS = _counter("projections_consumer_events_total", "Events that were acknowledged", "consumer")
CONSUMER_ATTEMPTS = _gauge(
    "projections_consumer_attempts", "How often the events after its checkpoint were handed out", "consumer"
)

CONNECTIONS = _gauge(
    "projections_database_connections",
    "Client sessions of the server: owner is projections for those of this project in this database, else other;"
    " state is hidden if this role may not see it",
    "owner",
    "state",
)
MAX_CONNECTIONS = _gauge("projections_database_max_connections", "Sessions that the server allows")
LOCK_WAITS = _gauge("projections_database_lock_waits", "Sessions of the database that wait for a lock")
LOCK_WAIT = _gauge("projections_database_longest_lock_wait_seconds", "How long the first of them has waited")
OLDEST = _gauge(
    "projections_database_oldest_transaction_seconds",
    "The age of the oldest transaction that keeps old row versions alive",
)


def add_database_samples(samples: Samples, reading: Reading, load: DatabaseLoad | None) -> None:
    """Add what a reading of the database brought; the load is None if the database failed since."""
    status = reading.status
    samples.add(UP, status is not None and load is not None)
    if status is None or load is None:
        return
    samples.add(READ_SECONDS, reading.seconds)
    samples.add(LOG_EVENTS, status.head)
    _add_time(samples, LAST_APPEND, status.last_appended_at)
    _add_time(samples, LAST_ERASURE, status.last_erased_at)
    for projection in status.projections:
        _add_projection(samples, projection, status)
    for rebuild in status.rebuilds:
        _add_rebuild(samples, rebuild)
    for app in status.apps:
        _add_app(samples, app)
    for consumer in status.consumers:
        _add_consumer(samples, consumer)
    _add_load(samples, load)


def _add_projection(samples: Samples, one: ProjectionStatus, status: LiveStatus) -> None:
    for state in STATES:
        samples.add(STATE, state == one.state, one.name, state)
    samples.add(LAG_EVENTS, one.events_behind, one.name)
    samples.add(LAG_SECONDS, one.seconds_behind, one.name)
    samples.add(POSITION, one.position, one.name)
    samples.add(FOLDED, one.folded_events, one.name)
    _add_time(samples, LAST_FOLD, one.folded_at, one.name)
    if one.fold_seconds is not None:
        samples.add(LAST_WINDOW, one.fold_seconds, one.name)
    samples.add(SESSIONS, len(one.folded_by), one.name)
    samples.add(FAILURES, one.failures, one.name)
    samples.add(SKIPPED, one.skipped, one.name)
    samples.add(NEEDS_REBUILD, one.needs_rebuild or one.position > status.head, one.name)


def _add_rebuild(samples: Samples, rebuild: RunningRebuild) -> None:
    if rebuild.holder is None:
        return  # its process was killed
    samples.add(REBUILD_PROGRESS, rebuild.progress, rebuild.name, rebuild.into_schema or "")
    _add_time(samples, REBUILD_STARTED, rebuild.started_at, rebuild.name, rebuild.into_schema or "")


def _add_app(samples: Samples, app: AppStatus) -> None:
    samples.add(APP_FOLLOWED, app.followed_by is not None, app.app)
    samples.add(APP_REFUSED, app.refused_at is not None, app.app)
    samples.add(APP_FAILING, app.last_error is not None, app.app)
    _add_time(samples, APP_LAST_EVENT, app.last_received_at, app.app)
    samples.add(APP_GAPS, app.holes, app.app)
    samples.add(APP_LOSSES, len(app.went_back), app.app)
    samples.add(QUARANTINED, app.quarantined_messages, app.app)
    samples.add(QUARANTINE_KEPT, app.quarantined, app.app)
    samples.add(QUARANTINE_FULL, app.quarantine_full_since is not None, app.app)


def _add_consumer(samples: Samples, one: ConsumerStatus) -> None:
    samples.add(CONSUMER_LAG_EVENTS, one.events_behind, one.name)
    samples.add(CONSUMER_LAG_SECONDS, one.seconds_behind, one.name)
    samples.add(CONSUMER_POSITION, one.position, one.name)
    samples.add(CONSUMER_HELD, one.held_by is not None, one.name)
    samples.add(CONSUMER_EVENTS, one.events, one.name)
    samples.add(CONSUMER_ATTEMPTS, one.attempts, one.name)


def _add_load(samples: Samples, load: DatabaseLoad) -> None:
    for (owner, state), sessions in sorted(load.connections.items()):
        samples.add(CONNECTIONS, sessions, owner, state)
    samples.add(MAX_CONNECTIONS, load.max_connections)
    samples.add(LOCK_WAITS, load.lock_waits)
    samples.add(LOCK_WAIT, load.longest_lock_wait)
    samples.add(OLDEST, load.oldest_transaction)


def _add_time(samples: Samples, definition: MetricDefinition, moment: datetime | None, *labels: str) -> None:
    if moment is not None:
        samples.add(definition, moment.timestamp(), *labels)
