"""What all parts of a run share."""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.waits import Waits
from projections.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all parts of a run share.

    Attributes:
        url: the database.
        waits: the timeouts and intervals of the event store.
        settings: windows, time budget, retries and poll interval of the workers.

    """

    url: str
    waits: Waits
    settings: WorkerSettings
