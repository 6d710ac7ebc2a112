"""Shared by tests of the HTTP server: serves beside workers and followers that run in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from eventstore.ingest.follower import Follower
from eventstore.waits import Waits
from projections.http.http_options import HttpOptions
from projections.http.http_server import BoundAddress, http_server
from projections.http.http_settings import HttpSettings
from projections.http.read_session import ReadSession
from projections.http.status_source import StatusSource
from projections.http.web_context import WebContext
from projections.registry import Registry, find_projections
from projections.running.run_parts import RunParts
from projections.running.supervisor import run_projections
from projections.running.worker import Worker
from tests import folding, store
from tests.folding import run_context
from tests.http_requests import Answer, send_request

REFRESH_SECONDS = 0.05
"""How old the status may be, so that tests don't wait for it."""


@dataclass
class Served:
    """A server that runs: its URL, and the parts of the run that it watches."""

    url: str
    parts: RunParts

    async def get(self, path: str, **headers: str) -> Answer:
        """Send a GET request for a path, without the first slash."""
        return await send_request(self.url + path, **headers)

    async def wait_for(self, path: str, status: int, *words: str) -> Answer:
        """Repeat a request until it is answered with this status and all these words; returns the answer."""
        return await self._repeat(path, f"{status} with {words}", lambda answer: _has(answer, status, words))

    async def wait_until_ready(self) -> None:
        """Repeat a request for ``readyz`` until nothing is to be said: nothing is behind either."""
        await self._repeat(
            "readyz", "nothing but ready", lambda answer: (answer.status, answer.text) == (200, "ready\n")
        )

    async def _repeat(self, path: str, wanted: str, is_wanted: Callable[[Answer], bool]) -> Answer:
        last: Answer | None = None
        try:
            async with asyncio.timeout(store.GIVE_UP):
                while True:
                    last = await self.get(path)
                    if is_wanted(last):
                        return last
                    await asyncio.sleep(REFRESH_SECONDS)
        except TimeoutError:
            raise AssertionError(f"timed out waiting for {wanted}; the last answer: {last}") from None


def _has(answer: Answer, status: int, words: Sequence[str]) -> bool:
    return answer.status == status and all(word in answer.text for word in words)


@asynccontextmanager
async def served_run(
    url: str,
    *,
    workers: Sequence[Worker] = (),
    followers: Sequence[Follower] = (),
    waits: Waits = folding.QUICK,
    stalled_after: float = folding.NEVER,
    registry: Registry | None = None,
    personal_data: bool = False,
) -> AsyncIterator[Served]:
    """Run workers and followers as ``projections run`` does, and serve; without both, only serve."""
    options = HttpOptions("127.0.0.1", 0, personal_data)
    bound = BoundAddress(options)
    parts = RunParts(workers, followers)
    registry = registry or find_projections()
    status = StatusSource(ReadSession(url, waits, "status"), registry, REFRESH_SECONDS)
    queries, settings = ReadSession(url, waits, "queries"), HttpSettings(stalled_after=stalled_after)
    context = WebContext(url, options, registry, waits, settings, status, queries, parts)
    async with http_server(bound, context):
        running: asyncio.Task[object] | None = None
        if workers or followers:
            run = run_projections(
                replace(run_context(url), waits=waits), workers, followers, stop=parts.stop, parts=parts
            )
            running = asyncio.create_task(run)
        try:
            yield Served(bound.url, parts)
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
