"""How many quarantined messages are kept, as settings: ``PROJECTIONS_QUARANTINE_<NAME>`` in the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.settings_loader import load_settings

_LARGEST = 2**62


class QuarantineLimits(BaseSettings):
    """How much is kept of an app's quarantined messages; all of them are counted.

    A tenth of both is reserved for samples of messages that are received when the rest is full.
    """

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_QUARANTINE_", frozen=True)

    max_rows: int = Field(
        10_000,
        ge=0,
        le=_LARGEST,
        json_schema_extra={"unit": "messages"},
        description="maximum number of distinct messages kept per app; 0 keeps none",
    )
    max_bytes: int = Field(
        256 * 2**20,
        ge=0,
        le=_LARGEST,
        json_schema_extra={"unit": "bytes"},
        description="maximum size of the payloads kept per app",
    )

    @property
    def sample_rows(self) -> int:
        """How many of the rows are reserved for samples."""
        return self.max_rows // 10

    @property
    def sample_bytes(self) -> int:
        """How many of the bytes are reserved for samples."""
        return self.max_bytes // 10


DEFAULT_LIMITS = QuarantineLimits.model_construct()
"""The defaults, independent of the environment."""


def load_quarantine_limits() -> QuarantineLimits:
    """Return the limits that the environment sets.

    Raises:
        UsageError: one of them is not valid.

    """
    return load_settings(QuarantineLimits)
