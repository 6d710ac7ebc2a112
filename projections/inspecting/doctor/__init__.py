"""Examines a whole installation: each check finds what is behind or wrong, and names the command that mends it."""
