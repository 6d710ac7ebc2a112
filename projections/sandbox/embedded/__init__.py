"""A PostgreSQL of our own, for whoever gives no database: found in a wheel, started with our arguments only."""

from __future__ import annotations

from projections.sandbox.embedded.binaries import locate, wheel_psql
from projections.sandbox.embedded.embedded_postgres import EmbeddedPostgres, Status
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts

__all__ = ["EmbeddedPostgres", "EmbeddedTimeouts", "Status", "locate", "wheel_psql"]
