"""Timeouts and intervals of the event store, in seconds, as settings: ``PROJECTIONS_<NAME>`` in the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from typing import Self

from annotated_types import Ge
from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.settings_loader import load_settings

SHORTEST, LONGEST = 0.001, 2_147_483


class Waits(BaseSettings):
    """Timeouts and intervals in seconds. Tests use small ones; one test checks the defaults."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_", frozen=True, allow_inf_nan=False)

    overlap: float = Field(5.0, ge=0, description="how far before the cursor a stream resumes")
    silence: float = Field(
        65.0,
        gt=0,
        description="seconds without any frame before a stream is reconnected (`pcs.external.v1`) or a warning is "
        "logged (`chat.external`)",
    )
    ping: float = Field(300.0, gt=0, description="interval between HTTP/2 pings on a silent stream")
    ping_timeout: float = Field(20.0, gt=0, description="how long to wait for the answer to a ping")
    dial: float = Field(20.0, gt=0, description="how long to wait for a connection to the upstream")
    request_status: float = Field(
        20.0, gt=0, description="how long `reconcile` waits for the upstream's answer about one request"
    )
    settle: float = Field(1.0, gt=0, description="seconds without a refusal after which a call counts as accepted")
    healthy_after: float = Field(10.0, gt=0, description="seconds after which an open stream resets the back-off")
    backoff_first: float = Field(
        0.5, gt=0, description="the first back-off after an error of the upstream; each further one is twice as long"
    )
    backoff_cap: float = Field(60.0, gt=0, description="the longest back-off after errors of the upstream")
    normal_end_cap: float = Field(5.0, gt=0, description="the longest back-off after streams that ended normally")
    retry_after_cap: float = Field(3600.0, gt=0, description="upper limit for an upstream's `retry-after`")
    refused_retry: float = Field(300.0, ge=0, description="how long after a refusal an app is tried again; 0 for never")
    database_backoff_cap: float = Field(5.0, gt=0, description="the longest back-off while the database is unavailable")
    database_connect: float = Field(10.0, gt=0, description="how long to wait for a connection to the database")
    append_lock: float = Field(
        10.0, gt=0, description="how long to wait for the append lock before a frozen holder is terminated"
    )
    lock: float = Field(
        30.0, gt=0, description="how long an append waits for any other lock before it is rolled back and retried"
    )
    migrate_lock: float = Field(
        2.0,
        gt=0,
        description="how long one attempt of a migration waits for locks, and the pause before the next attempt",
    )
    idle_in_transaction: float = Field(15.0, gt=0, description="Postgres ends a transaction idle for longer than this")
    leader_heartbeat: float = Field(
        5.0,
        gt=0,
        description="interval between queries on the connection that holds an app; must be less than "
        "`PROJECTIONS_LEADER_TIMEOUT`",
    )
    leader_timeout: float = Field(
        15.0,
        gt=0,
        description="Postgres ends a connection that holds an app and has sent no query for longer than this; "
        "another process then follows the app",
    )
    standby: float = Field(
        2.0, gt=0, description="interval between attempts to take over an app that another process follows"
    )
    shutdown: float = Field(4.0, gt=0, description="how long to wait at shutdown for received events to be committed")
    token_margin: float = Field(60.0, ge=0, description="how long before its expiry a token is renewed")
    issuer: float = Field(20.0, gt=0, description="how long to wait for the issuer's complete answer")

    @field_validator("*")
    @classmethod
    def _is_taken_by_postgres(cls, value: float, info: ValidationInfo) -> float:
        # Postgres takes many of these in whole milliseconds, up to 31 bits; 0 means no limit to it.
        if value > LONGEST or 0 < value < SHORTEST:
            may_be_0 = any(isinstance(limit, Ge) for limit in cls.model_fields[info.field_name or ""].metadata)
            zero = "0, or " if may_be_0 else ""
            raise PydanticCustomError("seconds", f"must be {zero}between {SHORTEST:g} and {LONGEST:,} seconds")
        return value

    @model_validator(mode="after")
    def _heartbeat_is_shorter_than_timeout(self) -> Self:
        if self.leader_heartbeat >= self.leader_timeout:
            raise ValueError("PROJECTIONS_LEADER_HEARTBEAT must be less than PROJECTIONS_LEADER_TIMEOUT")
        return self

    @staticmethod
    def as_timedelta(seconds: float) -> timedelta:
        """Return seconds as a timedelta."""
        return timedelta(seconds=seconds)


def load_waits() -> Waits:
    """Return the timeouts and intervals that the environment sets.

    Raises:
        UsageError: one of them is not valid.

    """
    names = {f"projections_{field}" for field in Waits.model_fields}
    return _load(frozenset((name, value) for name, value in os.environ.items() if name.lower() in names))


@lru_cache(maxsize=8)  # it takes 5 ms, and a migration asks forty times
def _load(environment: frozenset[tuple[str, str]]) -> Waits:  # noqa: ARG001 - what the result depends on
    return load_settings(Waits)
