"""A fixture for every test: restores logging and registered secrets after a command has run in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from eventstore.redaction import redact


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, secrets, tokens = (root.handlers[:], root.level), dict(redact._secrets), dict(redact._tokens)
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    redact._secrets.clear()
    redact._secrets.update(secrets)
    redact._tokens.clear()
    redact._tokens.update(tokens)
