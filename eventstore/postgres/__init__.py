"""Connections to Postgres: their settings, their locks, and waiting for a server."""
