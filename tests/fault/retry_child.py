"""A process that forks one retry of quarantined messages for each line it reads, so that a test can kill many quickly.

Its argument is a URL. A line is an app and a URL. Run as ``python -m tests.fault.retry_child``.
"""

from __future__ import annotations

import asyncio
import sys

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.postgres.connection import connect
from eventstore.quarantined.messages import Selection
from eventstore.quarantined.retry import retry_messages
from eventstore.waits import Waits
from tests.fault.forking_process import fork_for_each_line


async def retry_app(url: str, app: str, waits: Waits) -> int:
    """Retry all messages of an app; return how many events were stored."""
    async with await connect(url, name=app, waits=waits) as conn:
        return (await retry_messages(conn, Selection(app=app), DEFAULT_LIMITS, waits)).stored


async def _work(line: str) -> None:
    app, url = line.split()
    await retry_app(url, app, Waits())


def main() -> None:
    """Retry nothing, then fork a child for each line."""
    asyncio.run(retry_app(sys.argv[1], "nobody", Waits()))
    fork_for_each_line(_work)


if __name__ == "__main__":
    main()
