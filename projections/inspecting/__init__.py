"""Answers questions about projections and rows: status, health and explain."""
