"""A process that forks one rebuild for each line it reads, so that a test can kill many rebuilds quickly.

Its arguments are a projection's name and a URL. The line ``resume`` lets the child resume the last interrupted rebuild.
The process writes 0 when it is ready. It writes the child's pid at once, and 0 or minus the signal when the child ends.
Run as ``python -m tests.fault.rebuild_child``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys

from projections.migrating.metadata import READ_MODELS
from tests import rebuilding

RESUME = "resume"


def main() -> None:
    """Fork a child for each line; this process runs no thread and no event loop then, so a fork is safe."""
    name, url = sys.argv[1:]
    (projection,) = (each() for each in READ_MODELS if each.name == name)
    # What is loaded, compiled and cached before the fork, no child does again. The log is still empty.
    asyncio.run(rebuilding.rebuild(url, projection))
    gc.collect()
    gc.freeze()
    print(0, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            resume = line.strip() == RESUME
            asyncio.run(rebuilding.rebuild(url, projection, limits=rebuilding.ANY_REMOVAL, window=11, resume=resume))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
