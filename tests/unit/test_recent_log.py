"""The last log lines in memory: redacted like the log, bounded, and only changes of state."""

from __future__ import annotations

import pytest
import structlog

from eventstore.redaction.redact import MASK, register_secret
from projections import logs
from projections.recent_log import MAX_LINES, recent_log

SECRET = "a-secret-of-test-recent-log"


@pytest.mark.usefixtures("capsys")
def test_lines_are_remembered_as_they_are_logged() -> None:
    register_secret(SECRET)
    logs.configure("info")
    log = structlog.get_logger("projections.test")
    log.info("following", app="shop", note=f"with {SECRET}")
    log.debug("not logged")
    log.info("progress", stored=1)
    log.warning("the stream failed", app="shop")
    newest, before = recent_log.lines(2)
    assert (newest.level, newest.event, newest.fields) == ("warning", "the stream failed", {"app": "shop"})
    assert (before.event, before.fields) == ("following", {"app": "shop", "note": f"with {MASK}"})
    assert newest.number == before.number + 1
    for number in range(MAX_LINES + 5):
        log.info("again", number=number)
    lines = recent_log.lines()
    assert len(lines) == MAX_LINES
    assert lines[0].fields == {"number": str(MAX_LINES + 4)}
