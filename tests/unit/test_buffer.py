"""The buffer between reader and writer: limited by events and bytes, counting the batch that is being written."""

from __future__ import annotations

import asyncio

import pytest

from eventstore.contracts import Contract
from eventstore.ingest.buffer import BATCH_EVENTS, MAX_BYTES, MAX_EVENTS, Buffer, Received


def message(size: int = 1) -> Received:
    return Received(Contract.CHAT_EXTERNAL, bytes(size))


async def settle() -> None:
    """Let every task that can continue run."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_limits() -> None:
    assert (MAX_EVENTS, MAX_BYTES, BATCH_EVENTS) == (20_000, 64 * 2**20, 5_000)


def test_an_empty_buffer_is_drained_and_has_room() -> None:
    buffer = Buffer()
    assert (len(buffer), buffer.size, buffer.has_room) == (0, 0, True)


@pytest.mark.parametrize(("max_events", "max_bytes"), [(3, 1_000), (1_000, 30)])
async def test_it_accepts_messages_up_to_its_limit_and_has_room_again_once_a_batch_is_committed(
    max_events: int, max_bytes: int
) -> None:
    buffer = Buffer(max_events, max_bytes)
    assert [buffer.put(message(10)) for _ in range(3)] == [True, True, False]
    assert not buffer.has_room
    waiting = asyncio.create_task(buffer.room())
    batch = await buffer.take()
    await settle()
    assert len(batch) == 3
    assert not waiting.done(), "taken messages count until they are committed"
    assert (len(buffer), buffer.size) == (3, 30)
    buffer.committed()
    await waiting
    assert (len(buffer), buffer.size, buffer.has_room) == (0, 0, True)


async def test_the_limit_in_bytes_is_exceeded_by_one_message_at_most() -> None:
    buffer = Buffer(1_000, 100)
    assert buffer.put(message(99))
    assert not buffer.put(message(10_000))
    assert buffer.size == 10_099


async def test_messages_received_while_a_batch_is_written_count_with_it() -> None:
    buffer = Buffer(4, 1_000)
    buffer.put(message(1))
    assert len(await buffer.take()) == 1
    assert buffer.put(message(2))
    assert buffer.put(message(4))
    assert not buffer.put(message(8))
    assert (len(buffer), buffer.size) == (4, 15)
    buffer.committed()
    assert (len(buffer), buffer.size, buffer.has_room) == (3, 14, True)


async def test_it_stays_full_while_the_remaining_messages_fill_it() -> None:
    buffer = Buffer(BATCH_EVENTS + 1, 1_000_000)
    while buffer.put(message()):
        pass
    assert not buffer.put(message())
    assert len(await buffer.take()) == BATCH_EVENTS
    buffer.committed()
    assert (len(buffer), buffer.has_room) == (2, True)

    heavy = Buffer(1_000_000, 10)
    for _ in range(BATCH_EVENTS + 20):
        heavy.put(message())
    await heavy.take()
    heavy.committed()
    assert (heavy.size, heavy.has_room) == (20, False)


async def test_drained_means_committed_not_taken() -> None:
    buffer = Buffer()
    await buffer.drained()
    buffer.put(message())
    drained = asyncio.create_task(buffer.drained())
    await buffer.take()
    await settle()
    assert not drained.done()
    buffer.put(message())
    buffer.committed()
    await settle()
    assert not drained.done(), "another one was received meanwhile"
    await buffer.take()
    buffer.committed()
    await drained


async def test_one_event_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_self: Buffer) -> None:
        raise AssertionError("lingered")

    monkeypatch.setattr(Buffer, "_linger", never)
    buffer = Buffer()
    taking = asyncio.create_task(buffer.take())
    await settle()
    assert not taking.done()
    buffer.put(message())
    await settle()
    assert taking.done()
    assert await taking == [message()]


async def test_a_flood_is_taken_in_big_batches_in_order() -> None:
    buffer = Buffer(1_000_000)
    all_of_them = [message(size % 7) for size in range(BATCH_EVENTS + 5)]
    for item in all_of_them:
        buffer.put(item)
    first = await buffer.take()
    buffer.committed()
    second = await buffer.take()
    buffer.committed()
    assert (len(first), len(second)) == (BATCH_EVENTS, 5)
    assert first + second == all_of_them
    assert (len(buffer), buffer.size) == (0, 0)


async def test_the_writer_does_not_wait_when_the_buffer_is_full() -> None:
    buffer = Buffer(3)
    for _ in range(3):
        buffer.put(message())
    taking = asyncio.create_task(buffer.take())
    await settle()
    assert taking.done()


async def test_a_flood_is_taken_after_a_moment_whether_it_pauses_or_continues() -> None:
    buffer = Buffer()

    async def pour() -> None:
        while True:
            buffer.put(message())
            await asyncio.sleep(0)

    pouring = asyncio.create_task(pour())
    try:
        assert 1 <= len(await buffer.take()) <= BATCH_EVENTS
    finally:
        pouring.cancel()
