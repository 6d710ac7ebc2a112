"""Log lines contain no secrets; our own lines keep all numbers, and others' lines lose phone numbers."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from eventstore.redaction.redact import MASK, register_secret
from projections import logs

PHONE = "+47 412 34 567"
WORDS = f"no {PHONE}"
POSITION = 12_345_678_901


@pytest.fixture(autouse=True)
def _json() -> None:
    logs.configure("info", "json")


def logged_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    line: dict[str, object] = json.loads(capsys.readouterr().err)
    return line


@pytest.mark.parametrize("name", ["eventstore.ingest.stream_reader", "projections.running.worker", "projections"])
def test_numbers_in_our_own_log_lines_are_not_taken_for_phone_numbers(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    error = f"positions {POSITION}..{POSITION + 5} missing"
    structlog.get_logger(name).info("folding", position=POSITION, error=error)
    line = logged_line(capsys)
    assert (line["position"], line["error"]) == (POSITION, error)


@pytest.mark.parametrize("name", ["their_projection", "", None])
def test_log_lines_of_plug_ins_are_redacted(capsys: pytest.CaptureFixture[str], name: str | None) -> None:
    log = structlog.get_logger() if name is None else structlog.get_logger(name)
    log.warning(WORDS, person=PHONE, many=[PHONE], positions=POSITION)
    line = logged_line(capsys)
    assert line["event"] == f"no {MASK}"
    assert (line["person"], line["many"], line["positions"]) == (MASK, [MASK], POSITION)


def test_log_lines_of_libraries_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("their.library").warning("can't reach %s", PHONE)
    assert logged_line(capsys)["event"] == f"can't reach {MASK}"


@pytest.mark.parametrize("name", ["eventstore.ingest.stream_reader", "theirs"])
def test_phone_numbers_in_tracebacks_and_secrets_are_always_hidden(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    register_secret("hunter2-hunter2")
    try:
        int(PHONE)
    except ValueError:
        structlog.get_logger(name).exception("failed", detail="hunter2%2Dhunter2")
    line = logged_line(capsys)
    assert line["detail"] == MASK
    assert f"int() with base 10: '{MASK}'" in str(line["exception"])
