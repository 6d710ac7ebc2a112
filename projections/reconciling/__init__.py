"""Asks the upstream about requests whose events may be missing, and compares its answers with the read models."""
