"""Replays the log: rebuild, verify, as-of and redecode."""
