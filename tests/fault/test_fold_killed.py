"""A worker that is killed before any of its messages to Postgres leaves rows and checkpoint of the same window."""

from __future__ import annotations

import os
import signal
from itertools import count

import pytest
from psycopg import AsyncConnection

from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.people import People
from projections.read_models.poll_tallies import PollTallies
from projections.read_models.request_status import RequestStatus
from projections.running.window_step import Step
from tests import folding, oracle, store
from tests.fault.fold_child import WINDOW
from tests.fault.forking_process import exit_code_of_child, forking_process, start_child
from tests.fault.proxy import TERMINATE, PostgresProxy, target_of, through
from tests.fix_full_matrix import stood_for
from tests.folding import fold, new_record, worker, worker_connection
from tests.oracle import Record, Row, Summary

MISSES = 3
"""After so many rounds in a row that end before their kill, every message has been reached."""
RETURNS = 10
"""At most so many times the test goes back to messages that it may have missed."""


def before_and_after(app: str) -> tuple[list[Record], list[Record]]:
    """The events folded before the kill, and those folded during it: these change every old row and add new rows."""
    one, two, poll = "12300000001", "12300000002", oracle.POLL_RESPONSE
    first = [
        new_record(oracle.PENDING_CONSENT, one, app=app),
        new_record(oracle.DELIVERED, two, app=app),
        new_record(poll, one, app=app, options=("yes",)),
    ]
    then = [
        new_record(oracle.DELIVERED, one, app=app),
        new_record(oracle.FAILED, two, app=app),
        new_record(oracle.GRANTED, two, app=app),
        new_record(poll, one, app=app, options=("no",)),
        new_record(poll, two, app=app, options=("no", "maybe")),
        new_record(oracle.COMPLETED, None, app=app, summary=Summary(3, 2, 1, 1, 0)),
        new_record(oracle.DELIVERED, two, app=app, request="request 2"),
    ]
    return first, then


async def state(conn: AsyncConnection, projection: type[Projection], app: str) -> tuple[int, dict[str, list[Row]]]:
    """Read the checkpoint's position and the rows of one app."""
    found = await folding.read_model_rows(conn, [app], names=[one.name for one in projection.tables])
    return await folding.position(conn, projection.name), found


def expected(projection: type[Projection], events: list[Record]) -> dict[str, list[Row]]:
    found = oracle.read_models(events)
    return {one.name: found[one.name] for one in projection.tables}


@pytest.mark.parametrize(
    "projection",
    [
        RequestStatus,
        PollTallies,
        *stood_for("RequestStatus folds with inserts too, into one table more", ConsentRegistry),
        *stood_for(
            "RequestStatus folds with inserts into two tables too, one of which counts the other's rows", People
        ),
    ],
)
async def test_rows_and_checkpoint_are_always_of_the_same_window(
    database_url: str, projection: type[Projection]
) -> None:
    own = worker(database_url, projection())
    async with (
        PostgresProxy(*target_of(database_url)) as proxy,
        forking_process("tests.fault.fold_child", projection.name, through(database_url, proxy.port)) as process,
        store.connection(database_url, "observer") as conn,
        worker_connection(own) as own_conn,
    ):
        position, number, missed, returned = 0, 1, 0, 0
        outcomes: set[int] = set()
        # The last window is one message; only Terminate follows it.
        expected_outcomes = set(range(-(-len(before_and_after("")[1]) // WINDOW)))
        for attempt in count(1):
            app = f"app {attempt}"
            first, then = before_and_after(app)
            await folding.append(conn, *first)
            assert await fold(own, own_conn) is Step.AT_HEAD
            await folding.append(conn, *then)
            cuts = (*range(0, len(then), WINDOW), len(then))
            states = [(position + len(first) + cut, expected(projection, first + then[:cut])) for cut in cuts]
            new = states[-1]
            position = new[0]
            pid, killed = 0, False
            proxy.messages = 0

            def kill(n: int, kind: bytes) -> bool:
                nonlocal killed
                # A Terminate message ends a connection; its sender may have ended already.
                if n != number or kind == TERMINATE:  # noqa: B023 - called in this round only
                    return True
                killed = True
                os.kill(pid, signal.SIGKILL)  # noqa: B023
                return False

            proxy.before = kill
            proxy.pause()
            pid = await start_child(process)
            proxy.resume()
            exit_code = await exit_code_of_child(process)
            await proxy.wait_for_disconnect()

            found = await state(conn, projection, app)
            if not killed:
                assert (exit_code, found) == (0, new)
                missed += 1
                # How many Sync messages a pipeline sends depends on timing: with one less than last time, a kill is a
                # window later than intended. The test then goes back to the messages that it may have missed.
                if missed == MISSES and (outcomes == expected_outcomes or returned == RETURNS):
                    break
                if missed == MISSES:
                    number, missed, returned = max(1, number - MISSES), 0, returned + 1
                continue
            assert exit_code == -signal.SIGKILL
            assert found in states, f"killed before message {number}"
            outcomes.add(states.index(found))
            number += 1
            assert await fold(own, own_conn) is Step.AT_HEAD
            assert await state(conn, projection, app) == new
        assert proxy.messages <= number, "one of the messages was never reached"
        assert outcomes == expected_outcomes, "it was not killed between each two of its commits"
        await folding.fold_all(database_url)
        await folding.assert_rows_match_oracle(conn)
