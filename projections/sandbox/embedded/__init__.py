"""An embedded PostgreSQL for users who configure no database: installed as a wheel, started with our arguments only."""

from __future__ import annotations

from projections.sandbox.embedded.binaries import locate, wheel_psql
from projections.sandbox.embedded.embedded_postgres import EmbeddedPostgres, EmbeddedStatus
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts

__all__ = ["EmbeddedPostgres", "EmbeddedStatus", "EmbeddedTimeouts", "locate", "wheel_psql"]
