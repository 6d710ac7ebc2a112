"""Measures what the HTTP server costs live folds: the same as ``live_p99``, with a page open, against without."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from benchmarks.harness import Postgres, Result, interleaved, result
from benchmarks.live import PER_SECOND, SECONDS, delays_until_folded, fold, fold_beside, percentile
from eventstore.waits import Waits
from projections.http.http_options import HttpOptions
from projections.http.http_server import BoundAddress, http_server
from projections.http.web_context import WebContext
from projections.registry import find_projections
from projections.running.run_parts import RunParts

REFERENCE = "the same without --http"
FEED = "readings"
"""The path of the server-sent events that an open page reads."""
SCRAPE_SECONDS, PROBE_SECONDS = 15.0, 10.0


def live_p99_http(postgres: Postgres) -> Result:
    """Run ``live_p99`` with the server, an open page, scrapes and probes, and without, in turns."""

    def with_page(_number: int) -> float:
        return percentile(delays_until_folded(postgres, _fold_and_serve), 99)

    def without(_number: int) -> float:
        return percentile(delays_until_folded(postgres, fold), 99)

    ours, theirs = interleaved(with_page, without)
    detail = {
        "events": PER_SECOND * SECONDS,
        "per_second": PER_SECOND,
        "page": f"one client of /{FEED}, /metrics every {SCRAPE_SECONDS:g} s, /readyz every {PROBE_SECONDS:g} s",
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    return result("live_p99_http", "ms (less is better)", REFERENCE, ours, theirs, detail)


async def _fold_and_serve(url: str, count: int, pipe: Connection) -> None:
    @asynccontextmanager
    async def serve(parts: RunParts) -> AsyncIterator[None]:
        options = HttpOptions.parse("127.0.0.1:0")
        bound = BoundAddress(options)
        context = WebContext.build(url, Waits(), find_projections(), options, parts)
        async with http_server(bound, context):
            # The browser is another process, as it is in use.
            page = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.live_http",
                bound.url,
                cwd=Path(__file__).parent.parent,
                stdout=asyncio.subprocess.PIPE,
            )
            assert page.stdout is not None  # noqa: S101 - a pipe was asked for
            await page.stdout.readline()  # the page is open
            yield
            page.terminate()
            await page.wait()

    await fold_beside(url, count, pipe, serve)


async def _look(url: str) -> None:
    """Read the feed of the page, scrape and probe, until terminated."""
    reader, _writer = await _request(url, FEED)
    status = (await reader.readline()).split()[1]
    if status != b"200":
        raise SystemExit(f"/{FEED} answered {status.decode()}")
    await reader.readline()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    asking = [
        asyncio.create_task(_ask(url, *each)) for each in (("metrics", SCRAPE_SECONDS), ("readyz", PROBE_SECONDS))
    ]
    received, began = 0, monotonic()
    while data := await reader.read(2**16):
        received += len(data)
    sys.stderr.write(f"  the feed ended after {monotonic() - began:.0f} s and {received:,} bytes\n")
    for task in asking:
        task.cancel()


async def _ask(url: str, path: str, seconds: float) -> None:
    while True:
        reader, writer = await _request(url, path)
        await reader.read()
        writer.close()
        await asyncio.sleep(seconds)


async def _request(url: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


if __name__ == "__main__":
    asyncio.run(_look(sys.argv[1]))
