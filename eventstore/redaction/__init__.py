"""Keeps tokens, secrets and phone numbers out of everything that is written for people to read."""
