"""A PostgreSQL of our own, for whoever gives no database: found in a wheel, started with our arguments only."""

from __future__ import annotations

from eventstore.embedded.binaries import locate, wheel_psql
from eventstore.embedded.server import EmbeddedPostgres, Status
from eventstore.embedded.waits import EmbeddedWaits

__all__ = ["EmbeddedPostgres", "EmbeddedWaits", "Status", "locate", "wheel_psql"]
