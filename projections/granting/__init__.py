"""Gives roles of the database the few privileges that they need: readers, workers, ingest, serve and consumers."""
