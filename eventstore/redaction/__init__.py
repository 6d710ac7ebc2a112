"""Hides tokens, secrets and phone numbers in logs, messages and errors."""
