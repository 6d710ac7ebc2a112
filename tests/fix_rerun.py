"""A hook: each failure ends with the command that runs that test again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator

import pytest

VARIABLES = ("CI", "PROJECTIONS_TEST_POSTGRES")
"""Environment variables that decide which examples and which server a test gets."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("To run this test again", rerun_command(item)))
    return report


def rerun_command(item: pytest.Item) -> str:
    """Return the command that runs one test again, with the seed that Hypothesis drew for it."""
    variables = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    options = []
    if item.config.getoption("--full-matrix"):
        options.append("--full-matrix")
    seed = item.config.getoption("--hypothesis-seed", None)
    if seed is None and isinstance(item, pytest.Function):
        seed = getattr(item.obj, "_hypothesis_internal_use_generated_seed", None)
    if seed is not None:
        options.append(f"--hypothesis-seed={seed}")
    # With several processes, pytest-xdist appends the group to the test's id.
    test = item.nodeid.rpartition("@")[0] if item.get_closest_marker("xdist_group") else item.nodeid
    return shlex.join([*variables, ".venv/bin/python", "-m", "pytest", *options, test or item.nodeid])
