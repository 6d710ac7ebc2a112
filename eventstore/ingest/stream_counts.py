"""Counts what happens on an app's streams, for metrics and health checks; counting costs a few additions a message.

Invariants. The counts belong to a follower, so they go on when a stream ends or the lease is lost. Times are those of
``time.monotonic``: setting the clock changes no age.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic


@dataclass(slots=True)
class StreamCounts:
    """What happened on the streams of one app since the process started.

    Attributes:
        connections: how often a connection to the upstream was opened.
        failures: how often a stream failed; a stream that the upstream ends normally has not.
        frames: how many messages were received, keep-alives included.
        last_frame_at: when the last one was received; None before the first.
        first_connected_at: when the first connection was opened; None before.

    """

    connections: int = 0
    failures: int = 0
    frames: int = 0
    last_frame_at: float | None = None
    first_connected_at: float | None = None

    @property
    def reconnects(self) -> int:
        """How often a connection was opened again after the first one."""
        return max(self.connections - 1, 0)

    @property
    def silent_since(self) -> float | None:
        """Since when nothing was received: the last message, or the first connection before the first message.

        Further connections don't count, for an upstream that never sends anything may accept any number of them.
        """
        return self.first_connected_at if self.last_frame_at is None else self.last_frame_at

    def connected(self) -> None:
        """Count a connection that was opened."""
        self.connections += 1
        if self.first_connected_at is None:
            self.first_connected_at = monotonic()
