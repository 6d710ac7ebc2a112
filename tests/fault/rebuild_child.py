"""A process that forks one rebuild for each line it reads, so that a test can kill many rebuilds quickly.

Its arguments are a projection's name and a URL. The line ``resume`` lets the child resume the last interrupted rebuild.
The process writes the child's pid at once, and 0 or minus the signal when the child ends. Run as
``python -m tests.fault.rebuild_child``.
"""

from __future__ import annotations

import asyncio
import os
import sys

from projections.folding.window_fold import build_fold
from projections.migrating.metadata import READ_MODELS
from projections.projection import READ_MODEL_SCHEMA
from projections.rebuilding.fingerprint import compute_fingerprint
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA
from tests import rebuilding

RESUME = "resume"


def main() -> None:
    """Fork a child for each line; this process runs no thread and no event loop, so a fork is safe."""
    name, url = sys.argv[1:]
    (projection,) = (each() for each in READ_MODELS if each.name == name)
    # Compiled before the fork, so that no child compiles it again.
    build_fold(projection, {READ_MODEL_SCHEMA: SHADOW_SCHEMA})
    compute_fingerprint(projection, [])
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
