"""Runs a command of the product as its users do, in a process of its own, and measures it."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter
from typing import NamedTuple

# The process reports its own peak. What the parent could read includes the parent's memory, from before the exec.
_RUN = """
import re
from projections.cli import main
try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


class Measured(NamedTuple):
    """How long a command took, and the most memory that it had."""

    seconds: float
    peak_mb: float


def measure_command(url: str, *arguments: str) -> Measured:
    """Run a command with a database.

    Raises:
        RuntimeError: it failed; the message has what it wrote to standard error.

    """
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DATABASE_URL": url}
    began = perf_counter()
    ended = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", _RUN, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    seconds = perf_counter() - began
    if ended.returncode:
        raise RuntimeError(f"projections {' '.join(arguments)} failed: {ended.stderr}")
    return Measured(seconds, int(ended.stdout.splitlines()[-1]) / 1024)
