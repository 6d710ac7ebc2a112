"""What monitoring reads every second, as plain values: the part of the status that costs little on any log."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from eventstore.consuming.consumers import ConsumerStatus
from projections.inspecting.status import AppStatus, ProjectionStatus


@dataclass(frozen=True)
class RunningRebuild:
    """A rebuild, or a rebuild as of a time, that runs now.

    Attributes:
        name: the projection.
        holder: the session that runs it; None if its process is gone (the next rebuild marks the row as abandoned).
        into_schema: the schema that a rebuild as of a time fills; None for a rebuild of the read model itself.
        dry_run: whether the difference is only reported.
        started_at: when it started.
        position: every event up to here is in the rebuilt tables.
        target: the head of the log.
        slices: into how many slices the log is divided; None if it is folded window by window.
        slices_folded: how many of them are folded. The position is 0 until all are.

    """

    name: str
    holder: str | None
    into_schema: str | None
    dry_run: bool
    started_at: datetime
    position: int
    target: int
    slices: int | None = None
    slices_folded: int | None = None

    @property
    def progress(self) -> float:
        """How much of the log is folded, from 0 to 1; comparing and applying follow after that."""
        if self.slices and not self.position:
            return (self.slices_folded or 0) / self.slices
        return min(self.position / self.target, 1.0) if self.target else 1.0


@dataclass(frozen=True)
class DatabaseLoad:
    """The sessions of the server and of this database.

    Attributes:
        connections: the number of client sessions of the server, by who has them (``projections``: this project, in
            this database; else ``other``) and their state; the state is ``hidden`` if this role may not see it.
        max_connections: how many sessions the server allows.
        lock_waits: sessions of this database that wait for a lock now.
        longest_lock_wait: for how many seconds the first of them has waited.
        oldest_transaction: the age in seconds of the oldest transaction that keeps old row versions alive; 0 without.

    """

    connections: dict[tuple[str, str], int] = field(default_factory=dict)
    max_connections: int = 0
    lock_waits: int = 0
    longest_lock_wait: float = 0.0
    oldest_transaction: float = 0.0


@dataclass(frozen=True)
class LiveStatus:
    """What :func:`projections.inspecting.read_live_status.read_live_status` reads; times are in UTC.

    Attributes:
        now: the database server's clock.
        head: the last position of the log.
        last_appended_at: when the event there was appended; None while there is no event.
        apps: the apps that were ever followed.
        projections: those with a checkpoint, and those of this code.
        rebuilds: the rebuilds that run now.
        consumers: the named consumers that were ever run.
        last_erased_at: when a person was last erased; None while nobody was.

    """

    now: datetime
    head: int
    last_appended_at: datetime | None
    apps: list[AppStatus]
    projections: list[ProjectionStatus]
    rebuilds: list[RunningRebuild]
    consumers: list[ConsumerStatus]
    last_erased_at: datetime | None = None
