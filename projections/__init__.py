"""Projections of the event store: read models that anyone may query, and the command that people run."""
