"""A process that forks one retry of quarantined messages for each line it reads, so that a test can kill many quickly.

A line is an app and a URL. The process writes the child's pid at once, and 0 or minus the signal when the child ends.
Run as ``python -m tests.fault.retry_child``.
"""

from __future__ import annotations

import asyncio
import os
import sys

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.postgres.connection import connect
from eventstore.quarantined.messages import Selection
from eventstore.quarantined.retry import retry_messages
from eventstore.waits import Waits


async def retry_app(url: str, app: str, waits: Waits) -> int:
    """Retry all messages of an app; return how many events were stored."""
    async with await connect(url, name=app, waits=waits) as conn:
        return (await retry_messages(conn, Selection(app=app), DEFAULT_LIMITS, waits)).stored


def main() -> None:
    """Fork a child for each line; this process runs no thread and no event loop, so a fork is safe."""
    for line in sys.stdin:
        app, url = line.split()
        pid = os.fork()
        if pid == 0:
            asyncio.run(retry_app(url, app, Waits()))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
