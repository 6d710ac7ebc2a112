"""What every check is given: the database's session, the limits, and what several checks read."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.erasure.erasure_key import ErasureKey
from eventstore.waits import Waits
from projections.inspecting.doctor.doctor_limits import DoctorLimits
from projections.inspecting.read_live_status import read_app_streams, read_projections
from projections.inspecting.status import AppStatus, ProjectionStatus
from projections.registry import Registry
from projections.settings import WorkerSettings


@dataclass(frozen=True)
class DoctorOptions:
    """What an examination depends on besides the database.

    Attributes:
        registry: the projections of this code.
        waits: the timeouts of the event store.
        worker: the settings of workers: how long a window may take.
        quarantine: how much the quarantine keeps.
        limits: what is too much, too little or too long.
        configured: the apps that should be followed.
        max_behind: how many seconds any projection may be behind; None for the limit, which counts for running ones.
        max_silence: how many seconds an app may send no event; None for any.
        thorough: whether to look at every position of the log.
        data_folder: the data folder of the embedded server; None for another server.
        ledger: the ledger of erased persons that is compared with the log; None for none.
        key: the erasure key; None without one.
        archive: the folder with the files of archived events; None if none is set.
        clock: this machine's clock, in seconds since 1970.

    """

    registry: Registry
    waits: Waits
    worker: WorkerSettings
    quarantine: QuarantineLimits
    limits: DoctorLimits
    configured: Collection[str] = ()
    max_behind: float | None = None
    max_silence: float | None = None
    thorough: bool = False
    data_folder: Path | None = None
    ledger: Path | None = None
    key: ErasureKey | None = field(default=None, repr=False)
    archive: Path | None = None
    clock: Callable[[], float] = time.time


@dataclass
class Examination:
    """One examination: its session, and what several checks read.

    Attributes:
        conn: the session, in autocommit.
        options: what it depends on besides the database.
        settings: the settings of the session as it was opened, by name.

    """

    conn: AsyncConnection[Any]
    options: DoctorOptions
    settings: Mapping[str, str] = field(default_factory=dict)
    _apps: list[AppStatus] | None = None
    _projections: list[ProjectionStatus] | None = None

    async def apps(self) -> list[AppStatus]:
        """Return the apps that were ever followed; read once.

        Raises:
            psycopg.Error: this role may not read them, or the database failed.

        """
        if self._apps is None:
            self._apps = await read_app_streams(self.conn)
        return self._apps

    async def projections(self) -> list[ProjectionStatus]:
        """Return the projections with a checkpoint, and those of this code; read once.

        Raises:
            psycopg.Error: this role may not read them, or the database failed.

        """
        if self._projections is None:
            self._projections = await read_projections(self.conn, self.options.registry)
        return self._projections

    @property
    def read_model_tables(self) -> list[str]:
        """The names of the projections' tables, in schema ``public``."""
        return sorted({table.name for one in self.options.registry.projections.values() for table in one.tables})
