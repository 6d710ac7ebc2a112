"""Asks an upstream about single requests: ``GetSendRequestStatus``, with the app's own credentials and connection.

Invariants. Every call has a deadline, and calls begin no faster than the rate. An upstream that is unavailable or
exhausted is asked again a few times, after a back-off or as long as it asks for. A refused token is fetched anew once.
A service that the upstream doesn't have is looked for under the other contract's name, and then not again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import monotonic
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from eventstore.backoff import Backoff
from eventstore.contracts import Contract
from eventstore.contracts.status_answer import UpstreamRequest, encode_status_request, read_status_answer
from eventstore.errors import NoSuchService, TokenRefused, UpstreamError, UpstreamRefused, UpstreamUnavailable
from eventstore.ingest.grpc_channel import open_channel
from eventstore.ingest.grpc_errors import upstream_error
from eventstore.ingest.upstream import Upstream
from eventstore.waits import Waits

ATTEMPTS = 5
"""How often an upstream that is unavailable is asked about one request."""
REPORTED_WAIT = 2.0
"""A wait of so many seconds is reported."""


class StatusClient:
    """Asks one upstream, on one connection; a context manager.

    Args:
        upstream: whom to ask.
        contract: the contract that its stream speaks, which is tried first; None if that isn't known.
        waits: the deadline and the back-off.
        rate: calls per second, at the most.
        on_wait: is called before a long wait, with why and the seconds.

    """

    def __init__(
        self,
        upstream: Upstream,
        contract: Contract | None,
        waits: Waits,
        *,
        rate: float,
        on_wait: Callable[[str, float], None] = lambda _why, _seconds: None,
    ) -> None:
        self._upstream = upstream
        self._waits = waits
        self._interval = 1 / rate
        self._next_call_at = 0.0
        self._on_wait = on_wait
        self._token_renewed = False
        known = upstream.contract or contract
        self._contracts = sorted(Contract, key=lambda each: each is not known)
        self._stack = AsyncExitStack()
        self._channel: grpc.aio.Channel

    async def __aenter__(self) -> Self:
        channel = open_channel(self._upstream.address, self._upstream.tls, self._waits)
        self._channel = await self._stack.enter_async_context(channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ask(self, send_request_id: str) -> UpstreamRequest | None:
        """Return what the upstream says about a request; None if it has no such request.

        Raises:
            UpstreamError: it refuses, or it did not answer after several attempts.
            CredentialsError: there is no token.

        """
        backoff = Backoff(self._waits.backoff_first, self._waits.backoff_cap)
        while True:
            try:
                answer = await self._call(self._contracts[0], send_request_id)
            except UpstreamError as error:
                if _is_unknown_request(error):
                    return None
                if not await self._prepare_retry(error, backoff):
                    raise
            else:
                self._token_renewed = False
                return answer

    async def _prepare_retry(self, error: UpstreamError, backoff: Backoff) -> bool:
        """Do what makes another attempt sensible, and return whether there is one."""
        if isinstance(error, TokenRefused):
            renewed, self._token_renewed = self._token_renewed, True
            return not renewed and await self._upstream.tokens.renew()
        if isinstance(error, NoSuchService):
            has_other = len(self._contracts) > 1
            self._contracts = self._contracts[-1:]
            return has_other
        if not isinstance(error, UpstreamUnavailable) or backoff.attempts + 1 >= ATTEMPTS:
            return False
        await self._wait(error, backoff)
        return True

    async def _call(self, contract: Contract, send_request_id: str) -> UpstreamRequest:
        token = await self._upstream.tokens.token()
        await self._keep_rate()
        address = self._upstream.address
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            address.status_method(contract)
        )
        try:
            data = await method(
                encode_status_request(send_request_id),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=self._waits.request_status,
            )
        except grpc.aio.AioRpcError as error:
            trailing = [(key, value) for key, value in error.trailing_metadata() or ()]
            raise upstream_error(
                error.code(), error.details(), trailing, address=address, contract=contract, call="GetSendRequestStatus"
            ) from None
        answer = read_status_answer(data)
        if answer is None:
            raise UpstreamError(f"{address.url} answered with bytes that are not a GetSendRequestStatusResponse")
        return answer

    async def _keep_rate(self) -> None:
        now = monotonic()
        begin = max(now, self._next_call_at)
        self._next_call_at = begin + self._interval
        if begin > now:
            await asyncio.sleep(begin - now)

    async def _wait(self, error: UpstreamError, backoff: Backoff) -> None:
        seconds = backoff.next(at_least=min(error.retry_after or 0.0, self._waits.retry_after_cap))
        if seconds >= REPORTED_WAIT:
            self._on_wait(str(error), seconds)
        await asyncio.sleep(seconds)


def _is_unknown_request(error: UpstreamError) -> bool:
    return isinstance(error, UpstreamRefused) and error.by_platform and error.status == grpc.StatusCode.NOT_FOUND.name
