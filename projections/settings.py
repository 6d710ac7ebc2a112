"""Settings of folding and of rebuilds: ``PROJECTIONS_<NAME>`` and ``PROJECTIONS_REBUILD_<NAME>`` in the environment.

docs/configuration.md lists the settings of all modules; those of the simulator are in docs/simulator.md, those of
health checks over HTTP in docs/monitoring.md. ``MODELS`` in tools/settings_tables.py names every model of settings.
"""

from __future__ import annotations

import os
import re

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore import settings_loader

_KILOBYTES = {"kB": 1, "MB": 2**10, "GB": 2**20}
_SIZE = re.compile(r"([1-9][0-9]*)(kB|MB|GB)")
_WORK_MEM = range(64, 2**31)
"""What Postgres accepts, in kilobytes."""

CATCH_UP_WINDOW = 200_000
"""Positions in a window of a projection that is far behind, at the most, unless the batch size is set."""
FOLD_TIMEOUT = 120.0
"""The default of the time budget of a fold, in seconds."""


class WorkerSettings(BaseSettings):
    """Settings of a worker; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_", frozen=True, allow_inf_nan=False)

    batch_size: int = Field(
        10_000,
        ge=1,
        json_schema_extra={"unit": "positions"},
        description="maximum positions in a window; if it is not set, windows of a projection that is far behind grow "
        "to 200,000 while they take about a second",
    )
    poll: float = Field(1.0, gt=0, description="interval between two looks at the log when no notification comes")
    retry_first: float = Field(
        1.0,
        gt=0,
        description="how long a failed projection waits before its first retry; each further wait is twice as long",
    )
    retry_cap: float = Field(60.0, gt=0, description="the longest wait before a retry")
    # Postgres counts in whole milliseconds, and 0 means no limit.
    fold_timeout: float = Field(
        FOLD_TIMEOUT,
        ge=0.002,
        le=2_147_483,
        description="how long one statement of a fold may run, or `handle` for one event",
    )

    @property
    def largest_window(self) -> int:
        """The most positions that a window has while a projection is far behind."""
        return self.batch_size if "batch_size" in self.model_fields_set else CATCH_UP_WINDOW


class ReplaySettings(BaseSettings):
    """Settings of a rebuild, a verification or an as-of rebuild; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_REBUILD_", frozen=True, allow_inf_nan=False)

    window: int = Field(
        200_000,
        ge=1,
        json_schema_extra={"unit": "positions"},
        description="maximum positions in a window; one window is folded in one transaction",
    )
    slice: int = Field(
        250_000,
        ge=1,
        json_schema_extra={"unit": "events"},
        description="how many events a slice has, about; a log of less than two slices is folded window by window",
    )
    work_mem: str = Field(
        "64MB",
        description="Postgres's `work_mem` for the session of the rebuild: a number and `kB`, `MB` or `GB`, "
        "from 64kB to 2147483647kB",
    )
    # Postgres counts in whole milliseconds, and 0 means no limit.
    lock_timeout: float = Field(
        5.0,
        ge=0.001,
        le=2_147_483,
        description="how long to wait for a lock before releasing all locks and trying again",
    )
    fold_timeout: float = Field(
        FOLD_TIMEOUT,
        ge=0.002,
        le=2_147_483,
        description="how long one statement of a fold may run, or `handle` for one event",
    )
    rest: int = Field(
        2_000,
        ge=0,
        json_schema_extra={"unit": "events"},
        description="maximum events left to fold while the checkpoint is locked",
    )
    jobs: int = Field(
        0,
        ge=0,
        le=64,
        json_schema_extra={"unit": "sessions"},
        description="how many sessions fold at the same time; 0 for half of this machine's processors, at least 1",
    )

    @property
    def job_count(self) -> int:
        """How many sessions fold at the same time."""
        return self.jobs or max((os.cpu_count() or 1) // 2, 1)

    @field_validator("work_mem")
    @classmethod
    def _check_work_mem(cls, value: str) -> str:
        size = _SIZE.fullmatch(value)
        if size is None or int(size[1]) * _KILOBYTES[size[2]] not in _WORK_MEM:
            limits = f"between {_WORK_MEM.start}kB and {_WORK_MEM.stop - 1}kB"
            raise PydanticCustomError("work_mem", f"must be a size such as 64MB, {limits}")
        return value


def load_worker_settings(batch_size: int | None = None) -> WorkerSettings:
    """Load the settings from the environment; a given batch size overrides its setting.

    Raises:
        UsageError: one of them is not valid.

    """
    return settings_loader.load_settings(WorkerSettings, **({} if batch_size is None else {"batch_size": batch_size}))


def load_replay_settings(jobs: int | None = None) -> ReplaySettings:
    """Load the settings from the environment; a given number of jobs overrides its setting.

    Raises:
        UsageError: one of them is not valid.

    """
    return settings_loader.load_settings(ReplaySettings, **({} if jobs is None else {"jobs": jobs}))
