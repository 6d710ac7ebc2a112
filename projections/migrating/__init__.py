"""Migrates a database to the schema that this version needs, and repairs it."""
