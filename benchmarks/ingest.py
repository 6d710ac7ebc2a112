"""Measures ingest at full speed; the reference is a loop that only reads the same stream from the same server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import grpc
import grpc.aio
import uvloop

from benchmarks.events import CONTRACT, ENDS, EVENTS, RECIPIENTS
from benchmarks.harness import Postgres, Result, interleaved, result
from eventstore.ingest.address import Address
from eventstore.ingest.context import IngestContext
from eventstore.ingest.credentials import FixedToken
from eventstore.ingest.follow_apps import follow
from eventstore.ingest.follower import Follower
from eventstore.ingest.upstream import Upstream
from eventstore.waits import Waits
from projections.running.garbage_collection import tune_garbage_collection

TOKEN = "simulator"  # noqa: S105 - the simulator's default
REFERENCE = "grpc.aio loop that only reads"


def ingest(postgres: Postgres) -> Result:
    """Ingest 200,000 events of one stream, from the call to the last commit."""
    with _simulator() as address:

        def ours(_round: int) -> float:
            tune_garbage_collection()  # as projections run does, and its event loop; the reference leaves no garbage
            with postgres.database() as url:
                return EVENTS / uvloop.run(_ingest(url, address))

        def reference(_round: int) -> float:
            return EVENTS / asyncio.run(_read(address))

        mine, theirs = interleaved(ours, reference)
    detail = {
        "events": EVENTS,
        "server": "projections simulate, a process of its own on the same machine",
        "reference_code": "benchmarks/ingest.py: _read (async for over the call, no deserializer)",
        "reference_ddl": [],
        "settings": postgres.settings(),
        "versions": postgres.versions(),
    }
    return result("ingest", "events/s", REFERENCE, mine, theirs, detail)


async def _ingest(url: str, address: str) -> float:
    upstream = Upstream("default", Address.parse(address), FixedToken(TOKEN), contract=CONTRACT)
    follower = Follower(IngestContext(url, Waits()), upstream)
    stop = asyncio.Event()
    began = perf_counter()
    running = asyncio.create_task(follow([follower], stop=stop, waits=Waits()))
    while follower.stored < EVENTS and not running.done():  # noqa: ASYNC110 - polling costs least here
        await asyncio.sleep(0.01)
    elapsed = perf_counter() - began
    stop.set()
    outcome = await running
    if outcome.stored < EVENTS:
        raise RuntimeError(f"only {outcome.stored:,} events were stored: {outcome.refused}")
    return elapsed


async def _read(address: str) -> float:
    began = perf_counter()
    async with grpc.aio.insecure_channel(Address.parse(address).target) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(CONTRACT.method)
        call = method(b"", metadata=(("authorization", f"Bearer {TOKEN}"),))
        count = 0
        async for _ in call:
            count += 1
            if count == EVENTS:
                break
        elapsed = perf_counter() - began
        call.cancel()
    return elapsed


@contextmanager
def _simulator() -> Iterator[str]:
    command = [sys.executable, "-m", "projections", "simulate", "--contract", CONTRACT.value, "--token", TOKEN]
    command += ["--recipients", str(RECIPIENTS), "--epoch", f"{ENDS:%Y-%m-%dT%H:%M:%SZ}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            assert process.stdout is not None  # noqa: S101 - PIPE
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
