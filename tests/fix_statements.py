"""Hooks for ``--check-statements``: the run fails if the newest PostgreSQL gets a statement that the oldest doesn't.

``make test-all`` runs every test on both. It records the statements that the product sends on the newest, and those
that it sends on the oldest in the tests that ``make test`` runs there too (tests/oldest_postgres.py). If a statement is
missing on the oldest, it is printed and the run fails: tests/oldest_postgres.py must then choose more tests.
"""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from tests import fix_postgres, statements
from tests.oldest_postgres import runs_on_oldest

OPTION = "--check-statements"
SHOWN = 400
"""Characters of a statement that are printed."""
KEY = pytest.StashKey[Path]()
MISSING = pytest.StashKey[list[str]]()
EXEMPT: Mapping[str, str] = {
    r"^CREATE INDEX ON left nullif$": "the key of a block that only tests/property has; both functions are old",
}
"""Statements that need not be sent on the oldest: regular expressions of their normalised texts, with reasons."""

recorder = statements.Recorder()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="fail if the oldest PostgreSQL misses a statement of the newest")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption(OPTION):
        return
    if statements.VARIABLE not in os.environ:  # the processes that pytest-xdist starts inherit it
        os.environ[statements.VARIABLE] = tempfile.mkdtemp(prefix="statements-")
    config.stash[KEY] = Path(os.environ[statements.VARIABLE])
    recorder.install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    folder = item.config.stash.get(KEY, None)
    name = _server_of(item)
    recorder.file = folder / name if folder is not None and name is not None else None
    try:
        return (yield)
    finally:
        recorder.file = None


def _server_of(item: pytest.Item) -> str | None:
    """Return the server whose statements a test records, ``newest`` or ``oldest``; None if they aren't recorded."""
    sources = item.config.stash[fix_postgres.KEY]
    source = fix_postgres.server_of(item)
    if source is None:
        return None
    if source == sources[0]:
        return "newest"
    return "oldest" if source == sources[-1] and runs_on_oldest(item) else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.stash.get(KEY, None)
    if folder is None or hasattr(session.config, "workerinput"):
        return
    missing = statements.uncovered(statements.read(folder / "newest"), statements.read(folder / "oldest"), EXEMPT)
    session.config.stash[MISSING] = missing
    if missing and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    folder = config.stash.get(KEY, None)
    if folder is None:
        return
    counts = [len(statements.read(folder / name)) for name in ("newest", "oldest")]
    missing = config.stash.get(MISSING, [])
    terminalreporter.section("SQL statements on the newest and the oldest PostgreSQL")
    terminalreporter.line(
        f"{counts[0]} statements on the newest, {counts[1]} on the oldest, {len(missing)} only on the newest"
    )
    for statement in missing:
        terminalreporter.line(f"not sent on the oldest: {textwrap.shorten(statement, SHOWN)}", red=True)
    if missing:
        terminalreporter.line(
            "FAILED: run a test that sends them on the oldest too, see tests/oldest_postgres.py", red=True
        )
