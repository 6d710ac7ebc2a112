"""A fixture for every test: what a command run inside this process says, and how, and its secrets, go with the test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from eventstore import redact


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    before, secrets = (root.handlers[:], root.level), set(redact._secrets)
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    redact._secrets.clear()
    redact._secrets.update(secrets)
