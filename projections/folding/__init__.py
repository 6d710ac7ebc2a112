"""Turns a window of events into rows."""
