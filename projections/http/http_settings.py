"""Settings of health checks: ``PROJECTIONS_HTTP_<NAME>`` in the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.settings_loader import load_settings


class HttpSettings(BaseSettings):
    """Settings of health checks; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_HTTP_", frozen=True, allow_inf_nan=False)

    stalled_after: float = Field(
        60.0,
        gt=0,
        description="`/readyz` answers 503 when a projection is behind and has not moved for this long, when received "
        "events were not stored for this long, or when the session that wakes the workers was gone for this long",
    )


def load_http_settings() -> HttpSettings:
    """Load the settings from the environment.

    Raises:
        UsageError: one of them is not valid.

    """
    return load_settings(HttpSettings)
