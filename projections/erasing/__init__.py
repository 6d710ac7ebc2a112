"""Erases persons: from the log, from read models, and from everything else that the engine writes."""
