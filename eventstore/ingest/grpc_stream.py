"""One gRPC call of an upstream's streaming method: the connection, the call, and its messages as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

import grpc
import grpc.aio

from eventstore.contracts import Contract, encode_request
from eventstore.errors import UpstreamUnavailable
from eventstore.ingest.address import Address
from eventstore.ingest.grpc_channel import open_channel
from eventstore.ingest.grpc_errors import upstream_error
from eventstore.ingest.upstream import Upstream
from eventstore.waits import Waits


class GrpcStream:
    """An open call.

    Attributes:
        contract: the contract of the call.
        messages: the messages as bytes; iterate inside :meth:`translate_errors`.
        is_answered: whether the server sent initial metadata, as far as :meth:`is_accepted` saw.
        last_message_at: when the last message was received, or the reader last had room for one (``time.monotonic``).

    """

    def __init__(
        self,
        address: Address,
        contract: Contract,
        channel: grpc.aio.Channel,
        call: grpc.aio.UnaryStreamCall[bytes, bytes],
    ) -> None:
        self.contract = contract
        self.messages: AsyncIterator[bytes] = call.__aiter__()
        self._address = address
        self._channel = channel
        self._call = call
        self._ended_for_silence = False
        self.is_answered = False
        self.last_message_at = monotonic()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open and the call has not ended."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY and not self._call.done()

    async def wait_until_connected(self) -> None:
        """Wait until the connection is open."""
        while (state := self._channel.get_state()) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    async def is_accepted(self, wait: float, longest: float | None) -> bool:
        """Wait until the call counts as accepted and return True; return False if it ended before.

        A refusal begins like an answer, with initial metadata, and its status follows at once. So a call counts as
        accepted ``wait`` seconds after its initial metadata. Some servers send none before their first message: there,
        a call that has been open for ``longest`` seconds counts as accepted too, unless that is None.
        """
        answer = asyncio.create_task(self._call.initial_metadata())
        try:
            while not self._call.done():
                await asyncio.wait({answer}, timeout=longest)
                await asyncio.sleep(wait)
                if self.is_open:
                    self.is_answered = answer.done()
                    return True
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
        return False

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn an error that ends the iteration into an UpstreamError."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise upstream_error(
                error.code(),
                error.details(),
                [(key, value) for key, value in error.trailing_metadata() or ()],
                address=self._address,
                contract=self.contract,
            ) from None
        except asyncio.CancelledError:
            # gRPC raises this both when we ended the call and when somebody cancels this task.
            task = asyncio.current_task()
            if not self._ended_for_silence or (task is not None and task.cancelling()):
                raise
            raise UpstreamUnavailable(f"{self._address.url} sent nothing for too long") from None

    async def watch_silence(
        self, waits: Waits, has_room: Callable[[], bool], on_silence: Callable[[float], None]
    ) -> None:
        """Wait until the call has brought nothing for too long; then end it, or for ``chat.external`` report it.

        Time in which the reader had no room does not count, nor time in which this process was frozen: messages that
        arrived meanwhile have not been read yet. ``chat.external`` has no keep-alives: there, a silent stream is a
        quiet app, and only an unanswered ping ends it.
        """
        while True:
            if not has_room():
                self.last_message_at = monotonic()
            left = self.last_message_at + waits.silence - monotonic()
            if left > 0:
                sleep, started = min(left, waits.silence / 4), monotonic()
                await asyncio.sleep(sleep)
                now = monotonic()
                if (late := now - started - sleep) > waits.silence / 4:
                    self.last_message_at = min(now, self.last_message_at + late)
            elif self.contract is Contract.CHAT_EXTERNAL:
                on_silence(waits.silence)
                return
            else:
                self._ended_for_silence = True
                self._call.cancel()
                return


@asynccontextmanager
async def open_stream(
    upstream: Upstream, contract: Contract, *, token: str, after_event_id: str | None, waits: Waits
) -> AsyncIterator[GrpcStream]:
    """Call the streaming method on a new connection, which is closed at the end of the block."""
    address = upstream.address
    async with open_channel(address, upstream.tls, waits) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(address.method(contract))
        call = method(encode_request(after_event_id), metadata=(("authorization", f"Bearer {token}"),))
        try:
            yield GrpcStream(address, contract, channel, call)
        finally:
            call.cancel()
