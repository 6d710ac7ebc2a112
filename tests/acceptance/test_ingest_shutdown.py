"""``projections ingest`` ends by a signal under load, without its database, and by SIGKILL at any moment."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count

import grpc.aio
import pytest

from eventstore.contracts import encode_request
from projections.cli.shared.output import counted
from projections.sandbox.simulator import SimulatedEvent, Simulator, World, build_log
from tests import wire
from tests.acceptance.command import PATIENT, QUICK, CommandResult, Commands, RunningCommand
from tests.acceptance.stored_events import AppEvents, read_stored, wait_for_events
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_simulator import LOG, TOKEN, Method, SimulatorFactory, entries_of, payloads, read_message
from tests.following import log_of
from tests.store import CHAT

EXPECTED = payloads(entries_of(CHAT), CHAT)
NOT_STORED = "received again at the next start"


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[TcpProxy]:
    """A proxy in front of the database, to cut and to freeze."""
    async with TcpProxy(*target_of(database_url)) as proxy:
        yield proxy


def variables(url: str, address: str, **more: str) -> dict[str, str]:
    there = {"DATABASE_URL": url, "PCS_EXTERNAL_API_URL": address, "PROJECTIONS_TOKEN": TOKEN}
    return {**QUICK, **PATIENT, **there, **more}


async def feed(simulator: Simulator, log: list[SimulatedEvent]) -> None:
    """Append events whenever all were sent, so that the stream is never at its end, and add them to the log."""
    for chunk in count(1):
        await simulator.wait_for(lambda: bool(simulator.calls) and simulator.calls[-1].events_sent == len(log))
        more = log_of(1_000, CHAT, ago=3600 - 3 * chunk)
        log.extend(more)
        await simulator.append(*more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_under_load_commits_what_was_received(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory, number: signal.Signals
) -> None:
    log = log_of(3_000, CHAT)
    simulator = await simulator_factory(log)
    running = await commands.start("ingest", **variables(database_url, simulator.address))
    feeding = asyncio.create_task(feed(simulator, log))
    await wait_for_events(database_url, 1)
    running.send(number)
    result = await running.wait()
    feeding.cancel()
    assert (result.code, result.out) == (0, ""), result.transcript
    found = await read_stored(database_url)
    assert found.payloads
    assert found.payloads == payloads(log[: len(found.payloads)], CHAT)
    assert found.cursor == found.last
    assert result.err.splitlines()[-1].startswith(f"{counted(len(found.payloads), 'new event')}, ")


async def start_through(
    proxy: TcpProxy, commands: Commands, database_url: str, simulator: Simulator
) -> tuple[RunningCommand, AppEvents]:
    """Start an ingest through a proxy; return it, and what is stored once it has everything."""
    url = through(database_url, proxy.port)
    running = await commands.start("ingest", **variables(url, simulator.address, PROJECTIONS_SHUTDOWN="0.5"))
    await wait_for_events(database_url, len(EXPECTED))
    return running, await read_stored(database_url)


async def assert_ended_without_storing(result: CommandResult, database_url: str, before: AppEvents) -> None:
    assert (result.code, result.out) == (1, ""), result.transcript
    assert NOT_STORED in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert await read_stored(database_url) == before


async def test_without_a_database_it_ends_with_exit_code_1_and_the_next_start_continues(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory, proxy: TcpProxy
) -> None:
    simulator = await simulator_factory(LOG)
    running, before = await start_through(proxy, commands, database_url, simulator)
    proxy.refuse()
    later = log_of(20, ago=0)
    await simulator.append(*later)
    await running.wait_for_stderr("database unavailable")
    running.send(signal.SIGTERM)
    result = await running.wait()
    await assert_ended_without_storing(result, database_url, before)
    again = await commands.run("ingest", "--until-idle", "1", **variables(database_url, simulator.address))
    assert again.code == 0, again.transcript
    assert (await read_stored(database_url)).payloads == EXPECTED + payloads(later, CHAT)


async def test_a_frozen_database_does_not_delay_the_end(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory, proxy: TcpProxy
) -> None:
    simulator = await simulator_factory(LOG)
    running, before = await start_through(proxy, commands, database_url, simulator)
    proxy.pause()
    # A megabyte: more than the buffers between the two hold, so that some were received when all are sent.
    await simulator.append(*log_of(1_000, CHAT, ago=60, more=wire.bytes_field(99, b"x" * 1_000)))
    await simulator.wait_for(lambda: simulator.calls[-1].events_sent == len(EXPECTED) + 1_000)
    running.send(signal.SIGTERM)
    result = await running.wait()
    await assert_ended_without_storing(result, database_url, before)


async def test_a_database_that_does_not_answer_at_the_start_does_not_delay_the_end(commands: Commands) -> None:
    connected = asyncio.Event()

    def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connected.set()

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    try:
        url = f"postgresql://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/d"
        running = await commands.start("ingest", **variables(url, "http://localhost:1", PROJECTIONS_SHUTDOWN="0.5"))
        await connected.wait()
        running.send(signal.SIGTERM)
        result = await running.wait()
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    assert (result.code, result.stderr_line) == (0, "0 new events, 0 duplicates, 0 quarantined"), "nothing was received"


async def test_sigkill_at_any_moment_loses_nothing_and_stores_nothing_twice(
    commands: Commands, database_url: str
) -> None:
    epoch, rate, world = datetime(2026, 3, 1, 12, tzinfo=UTC), 300, World(seed=7, recipients=3_000)
    arguments = ["--seed", "7", "--epoch", "2026-03-01T12:00:00Z", "--recipients", "3000", "--rate", str(rate)]
    simulator = await commands.start("simulate", *arguments)
    address = await simulator.wait_for_stdout("http://")
    settings = variables(database_url, address)
    story = world.events()
    log = chat_payloads(build_log(story, ends=epoch + timedelta(seconds=len(story) / rate), rate=rate))

    randomness, done, kills = random.Random(), 0, 0  # noqa: S311 - not for secrets
    while kills < 8 or done < len(log) // 2:  # the simulator is still sending during most of them
        running = await commands.start("ingest", **settings)
        match kills % 4:
            case 0:
                await running.wait_for_stderr("following")
            case 1:  # at any moment, also during start-up
                await asyncio.sleep(randomness.uniform(0, 1.5))
            case _:
                done = await wait_for_events(database_url, min(done + randomness.randint(1, 300), len(log)))
        result = await running.kill()
        assert result.code == -signal.SIGKILL, result.transcript
        kills += 1
    await wait_until_all_are_sent(address, await read_stored(database_url), len(log))
    last = await commands.run("ingest", "--until-idle", "1", **settings)
    assert last.code == 0, last.transcript
    assert "0 quarantined" in last.err
    found = await read_stored(database_url)
    assert len(found.payloads) == len(log)
    assert found.payloads == log
    assert found.cursor == found.last


async def wait_until_all_are_sent(address: str, stored: AppEvents, events: int) -> None:
    """Read the stream from the last stored event to the end of the log; a process gets the rest at once after that."""
    async with grpc.aio.insecure_channel(address.removeprefix("http://")) as channel:
        method: Method = channel.unary_stream(CHAT.method)
        call = method(encode_request(stored.last, None), metadata=(("authorization", f"Bearer {TOKEN}"),))
        for _ in range(events - len(stored.payloads)):
            await read_message(call)
        call.cancel()


def chat_payloads(log: list[SimulatedEvent]) -> list[bytes]:
    """The payloads of the events that the chat contract has."""
    return [entry.payloads[CHAT] for entry in log if CHAT in entry.payloads]
