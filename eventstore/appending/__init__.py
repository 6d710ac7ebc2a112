"""Appends events to the event table, and quarantines messages that can't be events."""
