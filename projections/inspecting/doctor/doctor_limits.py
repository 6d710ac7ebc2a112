"""The limits beyond which doctor reports something, as settings: ``PROJECTIONS_DOCTOR_<NAME>`` in the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.settings_loader import load_settings


class DoctorLimits(BaseSettings):
    """What is too much, too little or too long; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_DOCTOR_", frozen=True, allow_inf_nan=False)

    behind: float = Field(60.0, ge=0, description="how far behind the log a projection that runs may be")
    consumer_behind: float = Field(
        300.0, ge=0, description="how long the first event that a named consumer has not acknowledged may have waited"
    )
    quiet: float = Field(3600.0, gt=0, description="seconds without an event after which an app is mentioned")
    snapshot: float = Field(
        900.0, gt=0, description="how long a transaction may be open that keeps VACUUM from removing dead rows"
    )
    clock: float = Field(10.0, gt=0, description="how far this machine's clock may be from the database server's")
    disk_free: int = Field(
        2 * 2**30,
        ge=0,
        json_schema_extra={"unit": "bytes"},
        description="how much room the disk of a local server should have",
    )
    wal_kept: int = Field(
        2**30,
        ge=0,
        json_schema_extra={"unit": "bytes"},
        description="how much write-ahead log a replication slot may keep",
    )
    connections: int = Field(
        5,
        ge=0,
        json_schema_extra={"unit": "connections"},
        description="how many connections should be left, of the server's, the database's and the role's",
    )


def load_doctor_limits() -> DoctorLimits:
    """Return the limits that the environment sets.

    Raises:
        UsageError: one of them is not valid.

    """
    return load_settings(DoctorLimits)
