"""Checks a projection against the database at hand: the plans of its fold, and its fold over events of the log."""
