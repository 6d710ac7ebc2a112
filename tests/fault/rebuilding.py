"""A process that forks one rebuild for each line it reads, so that a test can kill many of them quickly.

Its arguments are a projection's name and a URL; a line that says so lets its child resume what the last one left. The
child's pid is answered at once; its end when it comes: 0, or minus the signal. Run as
``python -m tests.fault.rebuilding``.
"""

from __future__ import annotations

import asyncio
import os
import sys

from projections.migrating.metadata import READ_MODELS
from tests import rebuilding

RESUME = "resume"


def main() -> None:
    """Fork for each line; nothing here runs threads or a loop, so a fork is safe."""
    name, url = sys.argv[1:]
    (projection,) = (each() for each in READ_MODELS if each.name == name)
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
