"""Extreme poll answers: the time for huge ones is proportional to their size, and the longest texts fit the tables."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.contracts import Contract, Event, decode
from projections.blocks.tally_members import FEW
from projections.read_models.poll_tallies import PollTallies
from tests import folding, oracle, rebuilding, store, wire
from tests.folding import QUICK, append, new_record
from tests.queries import fetch_all

MANY = 50_000
"""The number of options of one answer. Comparing each with every other one would take minutes."""


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with store.connection(database_url, "reading") as conn:
        yield conn


def vote(*options: str, ppnum: str = "12300000001") -> oracle.Record:
    return new_record(oracle.POLL_RESPONSE, ppnum, options=options)


def as_decoded_by_older_code(record: oracle.Record) -> Event:
    """Return an answer with all of these options."""
    return folding.decode_record(record)._replace(
        poll_options=list(record.poll_options or ()), poll_options_dropped=None
    )


async def test_an_answer_of_50_000_options_is_folded_rebuilt_and_verified(
    database_url: str, conn: AsyncConnection
) -> None:
    options = [f"option {number % (MANY - 5)}" for number in range(MANY)]
    event = as_decoded_by_older_code(vote(*options))
    assert len(event.poll_options or ()) == MANY
    await Appender(conn, QUICK).append([event])
    await folding.fold_all(database_url, [PollTallies])
    assert await folding.count_rows(conn, "poll_tallies") == MANY - 5
    await append(conn, vote("option 1"), vote("option 1", "option 2", ppnum="12300000002"))
    await folding.fold_all(database_url, [PollTallies])
    tallies = "SELECT option, responses FROM public.poll_tallies ORDER BY option"
    assert await fetch_all(conn, tallies) == [("option 1", 2), ("option 2", 1)]
    await Appender(conn, QUICK).append([as_decoded_by_older_code(vote(*options))])
    await folding.fold_all(database_url, [PollTallies])
    assert rebuilding.total_differences(await rebuilding.verify(database_url, PollTallies())) == 0


async def test_the_folded_options_of_an_answer_are_limited_and_the_payload_keeps_all(
    database_url: str, conn: AsyncConnection
) -> None:
    record = vote(*(f"option {number}" for number in range(1_500)))
    await append(conn, record)
    await folding.fold_all(database_url, [PollTallies])
    assert await folding.count_rows(conn, "poll_tallies") == 1_000
    stored = await store.value(conn, "SELECT payload FROM eventstore.events")
    assert isinstance(stored, bytes)
    assert stored.count(b"option ") == 1_500
    assert await store.value(conn, "SELECT poll_options_dropped FROM eventstore.events") == 500


@pytest.mark.parametrize("length", [1, FEW - 1, FEW, FEW + 1, 3 * FEW])
async def test_a_repeated_option_counts_once_among_few_and_among_many(
    database_url: str, conn: AsyncConnection, length: int
) -> None:
    options = [f"{number % max(length // 2, 1)}" for number in range(length)]
    await append(conn, vote(*options), vote("0", "", ppnum="12300000002"), vote(ppnum="12300000003"))
    await folding.fold_all(database_url, [PollTallies])
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)
    await append(conn, vote("another", *options[1:], "another"), vote(ppnum="12300000002"))
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)


async def test_the_longest_accepted_texts_fit_every_table_and_index(database_url: str, conn: AsyncConnection) -> None:
    """Random texts, which Postgres can't compress in an index entry."""
    chosen = random.Random(0)  # noqa: S311 - not for secrets

    def noise(size: int) -> str:
        return "".join(chosen.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=size))

    app, request, ppnum = noise(63), noise(256), noise(256)
    payloads = [
        wire.event(
            store.next_ulid(),
            number,
            send_request_id=request,
            recipient=wire.recipient(ppnum, message_id=noise(256), error_code=noise(4096)),
            poll_response=wire.poll(noise(256), *(noise(2000) for _ in range(3))),
        )
        for number in range(1, 9)
    ]
    events = [decode(payload, app, Contract.CHAT_EXTERNAL) for payload in payloads]
    assert {event.poll_options_dropped for event in events} == {None}
    await Appender(conn, QUICK).append(events)
    await folding.fold_all(database_url)
    await folding.assert_rows_match_oracle(conn)
    assert await folding.count_rows(conn, "poll_tallies") == 3
