"""The rule for the name of an app."""

from __future__ import annotations

import re

APP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""1 to 63 letters, digits, '-', '_' or '.', of which the first is a letter or a digit; use ``fullmatch``."""
