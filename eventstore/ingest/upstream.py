"""What an app follows, and one dial of it: the channel, the call, and the messages as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic

import grpc
import grpc.aio
import structlog

from eventstore.contracts import Contract, encode_request
from eventstore.errors import UpstreamUnavailable
from eventstore.ingest.address import Address
from eventstore.ingest.credentials import TokenSource
from eventstore.ingest.refusals import upstream_error
from eventstore.waits import Waits

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS needs beyond the default (the roots that gRPC carries): PEM bytes, each None for the default."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None


NO_TLS = Tls()
"""The roots that gRPC carries, and no client certificate."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What an app follows.

    ``contract`` None: find out. ``since`` is a made-up ULID for the first contact, None for the contract's default.
    """

    app: str
    address: Address
    tokens: TokenSource
    contract: Contract | None = None
    since: str | None = None
    tls: Tls = NO_TLS


class Stream:
    """An open call.

    Attributes:
        contract: the contract it was dialled under.
        messages: the messages as bytes; iterate inside :meth:`watched`.
        is_answered: whether the server said anything, as far as :meth:`settled` saw; a call may stand without.
        last_message_at: when the last message came, or the reader last had room for one (``time.monotonic``).

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
        self._silent = False
        self.is_answered = False
        self.last_message_at = monotonic()

    @property
    def is_open(self) -> bool:
        """Whether the connection stands and the call isn't over."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY and not self._call.done()

    async def opened(self) -> None:
        """Wait until the connection stands."""
        while (state := self._channel.get_state()) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    async def settled(self, wait: float, longest: float | None) -> bool:
        """Wait until the call counts as taken; False when it ended before.

        A refusal begins with the same words as an answer, and its status follows at once: so an answered call counts
        after ``wait`` seconds more. Some servers say nothing before their first message: there, a call that has stood
        for ``longest`` seconds counts as well, unless that is None.
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
    def watched(self) -> Iterator[None]:
        """Turn what ends the iteration otherwise than normally into an UpstreamError."""
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
            # gRPC says it the same way when we ended the call and when somebody ends us.
            task = asyncio.current_task()
            if not self._silent or (task is not None and task.cancelling()):
                raise
            raise UpstreamUnavailable(f"{self._address.url} sent nothing for too long") from None

    async def break_silence(self, waits: Waits, has_room: Callable[[], bool]) -> None:
        """End the call, or for ``chat.external`` warn, once it brought nothing for too long.

        Time in which the reader had no room doesn't count, nor does time in which this process stood still: what came
        meanwhile is not yet read. ``chat.external`` has no keep-alives: there, a silent stream is a quiet app until a
        ping goes unanswered.
        """
        while True:
            if not has_room():
                self.last_message_at = monotonic()
            left = self.last_message_at + waits.silence - monotonic()
            if left > 0:
                nap, began = min(left, waits.silence / 4), monotonic()
                await asyncio.sleep(nap)
                now = monotonic()
                if (late := now - began - nap) > waits.silence / 4:
                    self.last_message_at = min(now, self.last_message_at + late)
            elif self.contract is Contract.CHAT_EXTERNAL:
                log.warning("the stream is silent", address=self._address.url, seconds=waits.silence)
                return
            else:
                self._silent = True
                self._call.cancel()
                return


@asynccontextmanager
async def dial(
    address: Address, contract: Contract, *, token: str, after_event_id: str | None, tls: Tls, waits: Waits
) -> AsyncIterator[Stream]:
    """Call the streaming method; the connection is made on the way, and ended at the end of the block."""
    async with _channel(address, tls, waits) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(address.method(contract))
        call = method(encode_request(after_event_id), metadata=(("authorization", f"Bearer {token}"),))
        try:
            yield Stream(address, contract, channel, call)
        finally:
            call.cancel()


def _channel(address: Address, tls: Tls, waits: Waits) -> grpc.aio.Channel:
    options: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.use_local_subchannel_pool", 1),  # each dial its own connection: back-off is ours to decide
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0 if address.loopback else 1),
        # Servers answer more frequent pings with GOAWAY; without data in between there may be any number of them.
        ("grpc.keepalive_time_ms", int(waits.ping * 1000)),
        ("grpc.keepalive_timeout_ms", int(waits.ping_timeout * 1000)),
        # The transport's own limit is a minute, and the greater of the two holds.
        ("grpc.http2.ping_timeout_ms", int(waits.ping_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_reconnect_backoff_ms", int(waits.dial * 1000)),
        ("grpc.min_reconnect_backoff_ms", int(waits.dial * 1000)),
    ]
    if not address.secure:
        return grpc.aio.insecure_channel(address.target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.aio.secure_channel(address.target, credentials, options=options)
