"""Measures the CPU time of starting a command; the reference is a Python that imports the same libraries for it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

from benchmarks.harness import Result, interleaved, result

RUNS = 5
"""Processes in a round: the CPU time of one process is too coarse."""
REFERENCE_CODE = "import typer, rich"
REFERENCE = f'python -c "{REFERENCE_CODE}"'
_COMMAND = "import sys; from projections.cli import main; sys.argv[0] = 'projections'; main()"


def _measure(name: str, arguments: Sequence[str]) -> Result:
    """Measure the CPU seconds of one command, over the whole life of its process."""
    with tempfile.TemporaryDirectory() as cache:
        # As in an installation, all bytecode is compiled before; none of it is written into this checkout.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        ours = [sys.executable, "-c", _COMMAND, *arguments]
        reference = [sys.executable, "-c", REFERENCE_CODE]
        for command in (ours, reference):
            _cpu_seconds(command, environment)
        mine, theirs = interleaved(
            lambda _round: _cpu_seconds(ours, environment), lambda _round: _cpu_seconds(reference, environment)
        )
    libraries = {library: version(library) for library in ("typer", "rich")}
    detail = {
        "command": f"projections {' '.join(arguments)}",
        "reference_code": REFERENCE_CODE,
        "versions": {"python": platform.python_version(), **libraries},
    }
    return result(name, "CPU s (less is better)", REFERENCE, mine, theirs, detail)


def _cpu_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """Return the mean CPU seconds of several runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(RUNS):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / RUNS


STARTUP = {
    "startup_version": partial(_measure, "startup_version", ["--version"]),
    "startup_help": partial(_measure, "startup_help", ["--help"]),
    # Everything that status loads before it connects to a database.
    "startup_status": partial(_measure, "startup_status", ["status", "--help"]),
}
"""Benchmarks that need no server."""
