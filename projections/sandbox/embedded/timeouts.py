"""How long the embedded PostgreSQL is waited for, in seconds: ``PROJECTIONS_EMBEDDED_<NAME>`` in the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EmbeddedWaits(BaseSettings):
    """How long each thing is waited for (seconds)."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_EMBEDDED_", frozen=True)

    lock: float = Field(default=90.0, gt=0, description="for another process that starts or stops the same server")
    initdb: float = Field(default=60.0, gt=0, description="for an empty cluster to be made")
    start: float = Field(default=60.0, gt=0, description="for the server to be ready, crash recovery included")
    stop: float = Field(default=30.0, gt=0, description="for the server to end")
    leftovers: float = Field(default=5.0, gt=0, description="for the children of a killed server to end by themselves")
    poll: float = Field(default=0.02, gt=0, description="between looks at any of these")
