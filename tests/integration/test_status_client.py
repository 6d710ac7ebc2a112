"""What an upstream's statuses mean for a reconciliation: wait, renew the token, ask no further, an unknown request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import grpc
import grpc.aio
import pytest
from psycopg import AsyncConnection

from eventstore.appending.append import Appender
from eventstore.contracts import Contract
from eventstore.ingest.address import Address
from eventstore.ingest.credentials import FixedToken, TokenSource
from eventstore.ingest.upstream import Upstream
from projections.reconciling.candidates import CandidateChoice
from projections.reconciling.reconcile import ReconcileReports, Reconciliation, reconcile_apps
from projections.reconciling.reconciliation_rows import KEPT_RUNS
from tests import folding, store, wire
from tests.following import quick_waits
from tests.scripted import Context
from tests.store import APP, CHAT, PCS, new_events

Reply = Callable[[Context], Awaitable[bytes]]
PROCESSING = wire.bytes_field(1, wire.summary(1, 1, status=2)) + wire.bytes_field(2, wire.recipient(status=2))
LATER = datetime.now(UTC) + timedelta(days=1)


def answers(data: bytes = PROCESSING) -> Reply:
    async def reply(_: Context) -> bytes:
        return data

    return reply


def refuses(code: grpc.StatusCode, *trailing: tuple[str, str]) -> Reply:
    async def reply(context: Context) -> NoReturn:
        await context.abort(code, "to call 49151234567 is forbidden", trailing)

    return reply


class StatusServer(grpc.GenericRpcHandler):
    """Plays one reply for each call; after the last one it plays that again. ``tokens`` are those of the calls."""

    def __init__(self, replies: Sequence[Reply], contracts: Sequence[Contract]) -> None:
        self._replies = replies
        self._paths = {contract.status_method for contract in contracts}
        self.tokens: list[str] = []
        self.paths: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        self.paths.append(str(handler_call_details.method))
        if handler_call_details.method not in self._paths:
            return None

        async def call(_: bytes, context: Context) -> bytes:
            self.tokens.append(str(dict(context.invocation_metadata() or ())["authorization"]))
            return await self._replies[min(len(self.tokens), len(self._replies)) - 1](context)

        return grpc.unary_unary_rpc_method_handler(call)


@asynccontextmanager
async def status_server(
    *replies: Reply, contracts: Sequence[Contract] = (PCS,)
) -> AsyncIterator[tuple[StatusServer, str]]:
    handler = StatusServer(replies, contracts)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


class TwoTokens:
    """A source whose first token is refused."""

    def __init__(self) -> None:
        self.current = "first"

    async def token(self) -> str:
        return self.current

    async def renew(self) -> bool:
        self.current = "second"
        return True


@pytest.fixture
async def three_requests(database_url: str, conn: AsyncConnection, appender: Appender) -> AsyncConnection:
    """A connection to a database with three unfinished requests, each with a delivered recipient."""
    await appender.append(
        [event._replace(send_request_id=name) for event, name in zip(new_events(3), "abc", strict=True)]
    )
    await folding.fold_all(database_url)
    return conn


async def reconcile(
    conn: AsyncConnection,
    address: str,
    *,
    tokens: TokenSource | None = None,
    contract: Contract | None = PCS,
    waited: list[str] | None = None,
) -> Reconciliation:
    upstream = Upstream(APP, Address.parse(address), tokens or FixedToken("token-of-mine"), contract)
    heard = waited if waited is not None else []
    reports = ReconcileReports(lambda _done, _all: None, lambda _app, why, _seconds: heard.append(why))
    choice = CandidateChoice(LATER, 100)
    return await reconcile_apps(
        conn, {APP: upstream}, choice, quick_waits(request_status=0.5), rate=1_000, reports=reports
    )


def verdicts(found: Reconciliation) -> list[str]:
    return [each.comparison.verdict.value for each in found.requests]


async def test_an_exhausted_upstream_is_asked_again_after_the_wait_that_it_asks_for(
    three_requests: AsyncConnection,
) -> None:
    exhausted = refuses(grpc.StatusCode.RESOURCE_EXHAUSTED, ("retry-after-ms", "2100"))
    waited: list[str] = []
    async with status_server(exhausted, refuses(grpc.StatusCode.UNAVAILABLE), answers()) as (server, address):
        found = await reconcile(three_requests, address, waited=waited)
    assert verdicts(found) == ["equal"] * 3
    assert len(server.tokens) == 5
    (why,) = waited
    assert "RESOURCE_EXHAUSTED" in why
    assert "49151234567" not in why


async def test_a_refused_token_is_renewed_once(three_requests: AsyncConnection) -> None:
    refused = refuses(grpc.StatusCode.UNAUTHENTICATED)
    async with status_server(refused, answers()) as (server, address):
        assert verdicts(await reconcile(three_requests, address, tokens=TwoTokens())) == ["equal"] * 3
    assert server.tokens == ["Bearer first", *["Bearer second"] * 3]
    async with status_server(refused) as (server, address):
        assert verdicts(await reconcile(three_requests, address, tokens=TwoTokens())) == ["not_asked"] * 3
    assert len(server.tokens) == 2


@pytest.mark.parametrize(
    ("code", "calls", "verdict"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, 1, "not_asked"),
        (grpc.StatusCode.INVALID_ARGUMENT, 3, "not_asked"),
        (grpc.StatusCode.NOT_FOUND, 3, "unknown_upstream"),
        (grpc.StatusCode.INTERNAL, 15, "not_asked"),
    ],
)
async def test_refusals_are_said_and_end_the_calls_only_where_another_would_be_refused_too(
    three_requests: AsyncConnection, code: grpc.StatusCode, calls: int, verdict: str
) -> None:
    async with status_server(refuses(code)) as (server, address):
        found = await reconcile(three_requests, address)
    assert verdicts(found) == [verdict] * 3
    assert len(server.tokens) == calls
    rows = await store.value(
        three_requests, "SELECT count(*) FROM projections.reconciliations WHERE run = %s", found.run.number
    )
    assert rows == 3
    for each in found.requests:
        assert (each.reason is None) == (verdict == "unknown_upstream")
        assert each.reason is None or code.name in each.reason
        assert "49151234567" not in (each.reason or "")


async def test_a_call_without_an_answer_ends_at_its_deadline(three_requests: AsyncConnection) -> None:
    async def hangs(context: Context) -> bytes:
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        return b""

    async with status_server(hangs, answers()) as (_, address):
        assert verdicts(await reconcile(three_requests, address)) == ["equal"] * 3


async def test_the_method_is_looked_for_under_both_contracts(three_requests: AsyncConnection) -> None:
    async with status_server(answers()) as (server, address):
        assert verdicts(await reconcile(three_requests, address, contract=CHAT)) == ["equal"] * 3
    assert server.paths == [CHAT.status_method, *[PCS.status_method] * 3]
    async with status_server(answers(), contracts=()) as (server, address):
        found = await reconcile(three_requests, address)
    assert verdicts(found) == ["not_asked"] * 3
    assert server.paths == [PCS.status_method, CHAT.status_method]
    assert "no such service" in (found.requests[0].reason or "")


@pytest.mark.oldest
async def test_the_last_runs_are_kept_and_what_was_asked_about_least_recently_comes_first(
    three_requests: AsyncConnection,
) -> None:
    async with status_server(answers(b"\xff"), answers()) as (_, address):
        first = await reconcile(three_requests, address)
        assert "not a GetSendRequestStatusResponse" in (first.requests[0].reason or "")
        await three_requests.execute(
            "INSERT INTO projections.reconciliations (run, started_at, app, send_request_id, why, asked_at, verdict)"
            " SELECT %s + n, now(), %s, 'a', 'unfinished', now() + n * interval '1 second', 'equal'"
            " FROM generate_series(1, %s) AS n",
            [first.run.number, APP, KEPT_RUNS - 1],
        )
        later = await reconcile(three_requests, address)
    assert [each.request.send_request_id for each in later.requests] == ["b", "c", "a"]
    runs = await store.value(three_requests, "SELECT count(DISTINCT run) FROM projections.reconciliations")
    assert runs == KEPT_RUNS
    oldest = await store.value(three_requests, "SELECT min(run) FROM projections.reconciliations")
    assert oldest == first.run.number + 1
