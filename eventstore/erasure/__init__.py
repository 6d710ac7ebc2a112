"""Erases persons from the log: their tokens, the payloads of their events, and the record of what was erased."""
