"""Appends events to the event table, and keeps what can't be an event in quarantine."""
