"""A process that forks one rebuild for each line it reads, so that a test can kill many rebuilds quickly.

Its arguments are a projection's name and a URL. The line ``resume`` lets the child resume the last interrupted rebuild.
Run as ``python -m tests.fault.rebuild_child``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from projections.migrating.metadata import READ_MODELS
from projections.rebuilding.rebuild import Rebuilt
from tests import rebuilding
from tests.fault.forking_process import fork_for_each_line

RESUME = "resume"
SLICED: dict[str, dict[str, Any]] = {"poll_tallies": {"slice": 5, "jobs": 1}, "people": {"slice": 9, "jobs": 2}}
"""The projections whose rebuilds fold slices, and how; those of the others fold windows."""


def main() -> None:
    """Run a whole rebuild, which loads and compiles what the next ones need, then fork a child for each line."""
    name, url = sys.argv[1:]
    (projection,) = (each() for each in READ_MODELS if each.name == name)

    async def work(line: str) -> Rebuilt:
        limits, resume = rebuilding.ANY_REMOVAL, line == RESUME
        sliced = SLICED.get(name, {})
        return await rebuilding.rebuild(url, projection, limits=limits, window=9, resume=resume, **sliced)

    asyncio.run(work(""))
    fork_for_each_line(work)


if __name__ == "__main__":
    main()
