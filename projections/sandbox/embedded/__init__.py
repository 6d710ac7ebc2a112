"""An embedded PostgreSQL for users who configure no database: installed as a wheel, started with our arguments only."""

from __future__ import annotations

from projections.sandbox.embedded.binaries import locate, wheel_psql
from projections.sandbox.embedded.embedded_postgres import EmbeddedPostgres, Status
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts

__all__ = ["EmbeddedPostgres", "EmbeddedTimeouts", "Status", "locate", "wheel_psql"]
