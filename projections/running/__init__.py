"""Runs the workers that keep read models up to date."""
