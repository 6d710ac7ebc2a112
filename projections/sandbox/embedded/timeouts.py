"""Timeouts of the embedded PostgreSQL, in seconds: ``PROJECTIONS_EMBEDDED_<NAME>`` in the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.settings_loader import load_settings


class EmbeddedTimeouts(BaseSettings):
    """How long to wait for each thing (seconds)."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_EMBEDDED_", frozen=True)

    lock: float = Field(
        default=90.0, gt=0, description="how long to wait for another process that starts or stops the same server"
    )
    initdb: float = Field(default=60.0, gt=0, description="how long to wait for `initdb` to create an empty cluster")
    start: float = Field(
        default=60.0, gt=0, description="how long to wait for the server to accept connections, crash recovery included"
    )
    stop: float = Field(default=30.0, gt=0, description="how long to wait for the server to stop")
    leftovers: float = Field(
        default=5.0, gt=0, description="how long to wait for the child processes of a killed server to end"
    )
    poll: float = Field(default=0.02, gt=0, description="interval between two checks while waiting for any of these")


def load_embedded_timeouts() -> EmbeddedTimeouts:
    """Return the timeouts that the environment sets.

    Raises:
        UsageError: one of them is not valid.

    """
    return load_settings(EmbeddedTimeouts)
