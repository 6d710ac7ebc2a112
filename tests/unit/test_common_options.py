"""Common options are recognised anywhere on the command line; psql's own options are passed to psql."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from projections.cli.app import app, common_options_first


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("status", "status"),
        ("-v status", "-v status"),
        ("status -v", "-v status"),
        ("status --json --verbose", "--verbose status --json"),
        ("run --log-level debug request_status", "--log-level debug run request_status"),
        ("run --log-level=debug --no-ingest", "--log-level=debug run --no-ingest"),
        ("run --log-format json --log-level", "--log-format json --log-level run"),
        ("explain consent_registry -v -- -v", "-v explain consent_registry -- -v"),
        ("db url -v", "-v db url"),
        ("db psql -v name=value", "db psql -v name=value"),
        ("-v db psql -c query -v name=value", "-v db psql -c query -v name=value"),
        ("", ""),
    ],
)
def test_common_options_are_recognised_anywhere(given: str, read: str) -> None:
    assert common_options_first(given.split()) == read.split()


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"projections {version('projections-engine')}\n")
