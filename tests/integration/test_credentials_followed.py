"""Tokens of a follower: a refused token is renewed once; a second refusal is final."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventstore.errors import CredentialsRefused, UsageError
from eventstore.ingest.address import Address
from eventstore.ingest.client_credentials import ClientCredentials
from eventstore.ingest.context import IngestContext
from eventstore.ingest.credentials import FileToken, FixedToken, TokenSource
from eventstore.ingest.follower import Follower, FollowerState
from eventstore.ingest.upstream import Upstream
from eventstore.redaction import redact as redaction
from eventstore.waits import Waits
from projections.sandbox.simulator import Fault, FaultKind, Simulator, SimulatorSettings
from tests.certificates import NO_AUTHORITIES
from tests.fix_issuer import CLIENT_ID, CLIENT_REFUSED, CLIENT_SECRET, Issuer
from tests.fix_simulator import LOG, SimulatorFactory, entries_of
from tests.following import log_of
from tests.store import APP, CHAT, connection, value, wait_until

QUICK = Waits(overlap=0, settle=0.02, backoff_first=0.02, backoff_cap=0.05, leader_timeout=60)
EVENTS = len(entries_of(CHAT))
IssuerFactory = Callable[..., Awaitable[Issuer]]


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", {})


@pytest.fixture
async def simulator(simulator_factory: SimulatorFactory) -> Simulator:
    """A simulator that requires the issuer's first token."""
    return await simulator_factory(LOG, SimulatorSettings(token="token-of-the-issuer-1"))


@asynccontextmanager
async def following(
    url: str, simulator: Simulator, tokens: TokenSource, waits: Waits = QUICK
) -> AsyncIterator[Follower]:
    follower = Follower(
        IngestContext(url, waits), Upstream(APP, Address.parse(simulator.address), tokens, contract=CHAT)
    )
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def client_of(issuer: Issuer, simulator: Simulator) -> ClientCredentials:
    return ClientCredentials(issuer.url, CLIENT_ID, CLIENT_SECRET, simulator.address, waits=QUICK, tls=NO_AUTHORITIES)


async def wait_until_stored(follower: Follower, count: int) -> None:
    async def enough() -> bool:
        assert follower.refusal is None
        return follower.stored >= count

    await wait_until(enough, f"{count} events stored")


async def wait_for_refusal(follower: Follower) -> str:
    """Wait for the follower's refusal and return its message; assert that it contains no secret."""

    async def refused() -> bool:
        return follower.state is FollowerState.REFUSED

    await wait_until(refused, "the refusal")
    assert follower.refusal is not None
    assert not [secret for secret in ("token-of", CLIENT_SECRET, "my-token") if secret in follower.refusal]
    return follower.refusal


LAST_ERROR = "SELECT max(last_error) FROM eventstore.cursors WHERE app = %s"


async def last_error(url: str) -> object:
    async with connection(url) as conn:
        return await value(conn, LAST_ERROR, APP)


# A client's tokens


async def test_after_a_refused_token_a_new_one_is_fetched_and_no_event_is_missed(
    database_url: str, simulator: Simulator, issuer: Issuer
) -> None:
    async with following(database_url, simulator, client_of(issuer, simulator)) as follower:
        await wait_until_stored(follower, EVENTS // 2)
        simulator.token = "token-of-the-issuer-2"
        simulator.inject(Fault(FaultKind.UNAVAILABLE))
        await wait_until_stored(follower, EVENTS)
        await simulator.wait_for(lambda: simulator.calls[-1].authorization == "Bearer token-of-the-issuer-2")
    assert issuer.tokens == ["token-of-the-issuer-1", "token-of-the-issuer-2"]
    assert {request.pairs["resource"] for request in issuer.token_requests} == {simulator.address}


async def test_one_token_is_used_for_many_calls(database_url: str, simulator: Simulator, issuer: Issuer) -> None:
    simulator.inject(Fault(FaultKind.UNAVAILABLE, after=10, times=3))
    async with following(database_url, simulator, client_of(issuer, simulator)) as follower:
        await wait_until_stored(follower, EVENTS)
    assert len(simulator.calls) == 4
    assert len(issuer.token_requests) == 1


async def test_a_token_refused_again_after_its_renewal_is_final(
    database_url: str, simulator: Simulator, issuer: Issuer
) -> None:
    simulator.token = "another"
    async with following(database_url, simulator, client_of(issuer, simulator)) as follower:
        message = await wait_for_refusal(follower)
    assert message.startswith(f"{simulator.address} refuses the token: UNAUTHENTICATED")
    assert len(issuer.token_requests) == len(simulator.calls) == 2
    assert await last_error(database_url) == message


async def test_a_token_may_be_renewed_again_once_one_was_accepted(
    database_url: str, simulator: Simulator, issuer: Issuer
) -> None:
    async with following(database_url, simulator, client_of(issuer, simulator)) as follower:
        await wait_until_stored(follower, EVENTS)
        for number, entry in enumerate(log_of(3, ago=0), 2):
            simulator.token = f"token-of-the-issuer-{number}"
            simulator.inject(Fault(FaultKind.UNAVAILABLE))
            await simulator.append(entry)
            await wait_until_stored(follower, EVENTS + number - 1)
            await wait_until_accepted(database_url)
    assert len(issuer.token_requests) == 4


async def test_a_token_may_be_renewed_again_after_a_stream_without_events_too(
    database_url: str, simulator: Simulator, issuer: Issuer
) -> None:
    waits = QUICK.model_copy(update={"healthy_after": 0.05})
    async with following(database_url, simulator, client_of(issuer, simulator), waits) as follower:
        await wait_until_stored(follower, EVENTS)
        for number in (2, 3):
            simulator.token = f"token-of-the-issuer-{number}"
            simulator.inject(Fault(FaultKind.UNAVAILABLE))
            await simulator.wait_for(lambda: is_last_call_open(simulator, f"Bearer {simulator.token}"))
            await wait_until_accepted(database_url)
    assert len(issuer.token_requests) == 3


def is_last_call_open(simulator: Simulator, authorization: str) -> bool:
    """Return whether the last call had this authorization and is still open."""
    return simulator.calls[-1].authorization == authorization and simulator.calls[-1].ended is None


async def wait_until_accepted(url: str) -> None:
    """Wait until the stream counts as accepted, which clears its last error."""
    async with connection(url) as conn:

        async def clear() -> bool:
            return await value(conn, LAST_ERROR, APP) is None

        await wait_until(clear, "a stream without an error")


async def test_an_issuer_that_is_down_is_retried(
    database_url: str, simulator: Simulator, issuer_factory: IssuerFactory
) -> None:
    down = await issuer_factory()
    await down.__aexit__(None, None, None)
    async with following(database_url, simulator, client_of(down, simulator)) as follower:
        assert "does not answer" in str(await wait_until(lambda: last_error(database_url), "an error of the issuer"))
        assert simulator.calls == []
        up = await issuer_factory(port=down.port)
        await wait_until_stored(follower, EVENTS)
    assert len(up.token_requests) == 1


async def test_an_issuer_that_refuses_the_client_is_final(
    database_url: str, simulator: Simulator, issuer: Issuer
) -> None:
    issuer.always = CLIENT_REFUSED
    async with following(database_url, simulator, client_of(issuer, simulator)) as follower:
        message = await wait_for_refusal(follower)
    assert message == f"the issuer {issuer.url} refuses the client: invalid_client: unknown client"
    assert (len(issuer.token_requests), simulator.calls) == (1, [])
    assert await last_error(database_url) == message


# A fixed token, or one from a file


async def test_a_fixed_token_that_is_refused_is_final_at_once(database_url: str, simulator: Simulator) -> None:
    async with following(database_url, simulator, FixedToken("my-token")) as follower:
        assert "refuses the token: UNAUTHENTICATED" in await wait_for_refusal(follower)
    assert len(simulator.calls) == 1


async def test_after_a_refused_token_the_file_is_read_again_once(
    database_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("token-of-the-issuer-1")
    async with following(database_url, simulator, FileToken(file)) as follower:
        await wait_until_stored(follower, EVENTS)
        simulator.token = "fresh"
        file.write_text("fresh\n")
        simulator.inject(Fault(FaultKind.UNAVAILABLE))
        await simulator.append(*log_of(1, ago=0))
        await wait_until_stored(follower, EVENTS + 1)
        await wait_until_accepted(database_url)
        calls = len(simulator.calls)
        simulator.token = "fresher"
        simulator.inject(Fault(FaultKind.UNAVAILABLE))
        assert "refuses the token" in await wait_for_refusal(follower)
    assert len(simulator.calls) == calls + 2


async def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    tokens = FileToken(file)
    for content in (" first\n", "second"):
        file.write_text(content)
        assert await tokens.token() == content.strip()
        assert await tokens.renew() is True


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two words", b"\xff", "tök".encode()])
async def test_a_file_without_a_token_is_final(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CredentialsRefused, match=r"token file .*token (can't be read|contains no valid token)"):
        await FileToken(file).token()


async def test_a_fixed_token_cannot_be_renewed() -> None:
    tokens = FixedToken("one")
    assert await tokens.token() == "one"
    assert await tokens.renew() is False


@pytest.mark.parametrize("token", ["", " ", "one\n", " one", "two words", "two\nlines", "tök"])
def test_a_text_that_cannot_be_a_token_is_a_usage_error(token: str) -> None:
    with pytest.raises(UsageError, match="the token is not valid") as caught:
        FixedToken(token)
    assert not token.strip() or token not in str(caught.value)
