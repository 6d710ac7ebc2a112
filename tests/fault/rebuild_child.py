"""A process that forks one rebuild for each line it reads, so that a test can kill many rebuilds quickly.

Its arguments are a projection's name and a URL. The line ``resume`` lets the child resume the last interrupted rebuild.
Run as ``python -m tests.fault.rebuild_child``.
"""

from __future__ import annotations

import asyncio
import sys

from projections.migrating.metadata import READ_MODELS
from projections.rebuilding.rebuild import Rebuilt
from tests import rebuilding
from tests.fault.forking_process import fork_for_each_line

RESUME = "resume"


def main() -> None:
    """Run a rebuild while the log is still empty, then fork a child for each line."""
    name, url = sys.argv[1:]
    (projection,) = (each() for each in READ_MODELS if each.name == name)
    asyncio.run(rebuilding.rebuild(url, projection))

    async def work(line: str) -> Rebuilt:
        limits, resume = rebuilding.ANY_REMOVAL, line == RESUME
        return await rebuilding.rebuild(url, projection, limits=limits, window=11, resume=resume)

    fork_for_each_line(work)


if __name__ == "__main__":
    main()
