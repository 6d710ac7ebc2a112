"""The metrics of this process: what its workers folded, and what its followers received."""

from __future__ import annotations

import platform
from time import monotonic, time

from eventstore.contracts import Contract
from eventstore.ingest.follower import Follower, FollowerState
from eventstore.waits import Waits
from projections.http.metric_catalogue import MetricCatalogue, Samples
from projections.running.fold_counts import BOUNDS
from projections.running.run_parts import RunParts

CATALOGUE = MetricCatalogue()
_gauge, _counter = CATALOGUE.gauge, CATALOGUE.counter

BUILD = _gauge("projections_build_info", "Always 1; the labels name the versions", "version", "python")

WINDOWS = CATALOGUE.histogram("projections_window_seconds", "How long folding a window took", "projection")
WINDOW_FAILURES = _counter("projections_window_failures_total", "Failures that stopped the projection", "projection")
LISTENING = _gauge("projections_listener_connected", "1 if the session listens that wakes the workers, else 0")

FOLLOWER = _gauge("projections_follower_state", "1 for the follower's state, 0 for the others", "app", "state")
CONNECTED = _gauge("projections_upstream_connected", "1 if the stream of the upstream is open, else 0", "app")
LAST_FRAME = _gauge(
    "projections_upstream_last_frame_timestamp_seconds",
    "When the last message was received, keep-alives included; missing before the first",
    "app",
)
SILENCE_LIMIT = _gauge(
    "projections_upstream_silence_limit_seconds",
    "How long a stream may be silent; missing for chat.external, which has no keep-alives",
    "app",
)
FRAMES = _counter("projections_upstream_frames_total", "Messages received, keep-alives included", "app")
RECONNECTS = _counter("projections_upstream_reconnects_total", "Connections opened after the first one", "app")
STREAM_FAILURES = _counter("projections_upstream_failures_total", "Streams that failed", "app")
APPENDED = _counter("projections_appended_events_total", "New events stored", "app")
DUPLICATES = _counter("projections_duplicate_events_total", "Events received that were stored already", "app")


def add_process_samples(samples: Samples, parts: RunParts, waits: Waits, version: str) -> None:
    """Add what this process did since it started."""
    samples.add(BUILD, 1, version, platform.python_version())
    for worker in parts.workers:
        counts, name = worker.counts, worker.projection.name
        samples.add_histogram(WINDOWS, BOUNDS, counts.windows_by_bound, counts.seconds, name)
        samples.add(WINDOW_FAILURES, counts.failures, name)
    if parts.listener is not None:
        samples.add(LISTENING, parts.listener.is_listening)
    for follower in parts.followers:
        _add_follower(samples, follower, waits)


def _add_follower(samples: Samples, follower: Follower, waits: Waits) -> None:
    app, counts = follower.app, follower.counts
    for state in FollowerState:
        samples.add(FOLLOWER, state is follower.state, app, state.value)
    samples.add(CONNECTED, follower.is_connected, app)
    if counts.last_frame_at is not None:
        samples.add(LAST_FRAME, time() - (monotonic() - counts.last_frame_at), app)
    if follower.contract is Contract.PCS_EXTERNAL_V1:
        samples.add(SILENCE_LIMIT, waits.silence, app)
    samples.add(FRAMES, counts.frames, app)
    samples.add(RECONNECTS, counts.reconnects, app)
    samples.add(STREAM_FAILURES, counts.failures, app)
    samples.add(APPENDED, follower.stored, app)
    samples.add(DUPLICATES, follower.duplicates, app)
