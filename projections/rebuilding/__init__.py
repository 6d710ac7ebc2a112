"""Replays the log: rebuild, verify and as-of."""
