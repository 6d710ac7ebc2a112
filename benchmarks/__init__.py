"""Measures speed, as a ratio to a reference in the same run: ``make bench``."""
