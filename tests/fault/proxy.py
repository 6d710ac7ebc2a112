"""Proxies that tests cut, pause and resume; one of them counts the messages that clients send to Postgres.

A proxy listens on a port of 127.0.0.1 and forwards bytes in both directions. Some tests start hundreds of processes
that send hundreds of messages each, so bytes are forwarded as they arrive, without tasks.

Invariant. When a client is gone, even if it was killed, its server reads the end of the connection, and the connection
counts until the server has closed it. Postgres closes it when the session's process ends. So after
:meth:`TcpProxy.wait_for_disconnect`, none of these sessions runs a statement or holds a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tests.fault.proxy_link import Link, Side
from tests.store import GIVE_UP

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
TERMINATE = b"X"
"""The type of the Terminate message, with which a client of Postgres ends its session."""


class TcpProxy:
    """A plain TCP proxy.

    Args:
        host: the host that connections are forwarded to.
        port: the port that connections are forwarded to.
        listen: the port to listen on; 0 for any.

    Attributes:
        port: the port that it listens on.
        accepted: connections accepted so far; refused ones are not counted.

    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self._target = (host, port)
        self._listen = listen
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._paused = asyncio.Event()
        self._changed = asyncio.Event()
        self._refusing = False
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self).client, "127.0.0.1", self._listen)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()
        await self.wait_for_disconnect()

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""
        for link in list(self._links):
            link.cut()

    def pause(self) -> None:
        """Stop forwarding and keep all connections open, as if the other side were frozen."""
        self._resumed.clear()
        self._paused.set()
        self._update_reading()

    def resume(self) -> None:
        """Forward the bytes that were held back, and all later ones."""
        self._paused.clear()
        self._resumed.set()
        for link in list(self._links):
            link.client.release()
            link.server.release()
        self._update_reading()

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self._paused.is_set()

    async def wait_for_pause(self) -> None:
        """Wait until it is paused."""
        await self._paused.wait()

    def switch(self, host: str, port: int) -> None:
        """Reset every connection; new ones go to another server."""
        self._target = (host, port)
        self.cut()

    def refuse(self) -> None:
        """Reset every connection, and every new one."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Accept new connections again."""
        self._refusing = False

    async def wait_for_connections(self, count: int = 1) -> None:
        """Wait until it has accepted so many connections since its start."""
        while self.accepted < count:
            await self._changed.wait()

    async def wait_for_disconnect(self) -> None:
        """Wait until there is no connection, and every server has closed its side."""
        async with asyncio.timeout(GIVE_UP):
            while self._links:
                await self._changed.wait()

    def connected(self, link: Link, side: Side) -> None:
        """Connect to the server once a client has connected, and forward once both have."""
        if side is link.server:
            self._links.add(link)
            self.accepted += 1
            self._notify()
            link.server.update_reading()
            link.client.update_reading()
            if link.client.is_lost:
                side.abort()
        elif self._refusing:
            side.abort()
        else:
            side.update_reading()
            task = asyncio.create_task(self._connect(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def received(self, link: Link, side: Side, data: bytes) -> None:  # noqa: ARG002 - for PostgresProxy
        """Forward what arrived from one side."""
        side.other.send(data)

    def disconnected(self, link: Link) -> None:
        """Note that one side's connection is closed."""
        if link.client.is_lost and link.server.is_lost:
            self._links.discard(link)
            self._notify()

    async def _connect(self, link: Link) -> None:
        try:
            await self._resumed.wait()
            await asyncio.get_running_loop().create_connection(lambda: link.server, *self._target)
        except OSError:
            link.client.abort()
        except asyncio.CancelledError:
            link.cut()
            raise

    def _update_reading(self) -> None:
        for link in self._links:
            link.client.update_reading()
            link.server.update_reading()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class PostgresProxy(TcpProxy):
    """A proxy that knows where each message of a client to Postgres begins, and counts them.

    Before it forwards the n-th message (of all connections together, from 1), it calls ``before(n, type)`` with the
    message's type byte, which is empty for the first messages of a connection. If that returns False, neither this
    message nor a later one of the connection is forwarded: the server sees the client disconnect.

    Attributes:
        messages: how many messages it has received.

    """

    def __init__(self, host: str, port: int, before: Callable[[int, bytes], bool] | None = None) -> None:
        super().__init__(host, port)
        self.before = before
        self.messages = 0

    def received(self, link: Link, side: Side, data: bytes) -> None:
        """Forward whole messages of the client; ``before`` is called before each."""
        if side is link.server:
            link.client.send(data)
            return
        data, begin, end = link.incomplete + data, 0, 0  # what is forwarded next is data[begin:end]
        while size := _size_of_message(data, end, is_typed=link.is_typed):
            kind = data[end : end + 1] if link.is_typed else b""
            if not link.is_typed:
                link.is_typed = int.from_bytes(data[end + 4 : end + 8], "big") not in {SSL_REQUEST, GSS_REQUEST}
            self.messages += 1
            was_paused = self.is_paused
            if self.before is not None and not self.before(self.messages, kind):
                link.server.send(data[begin:end])
                side.end()
                return
            if self.is_paused and not was_paused:  # what came before this message is forwarded all the same
                link.server.send(data[begin:end], is_overdue=True)
                begin = end
            end += size
        link.incomplete = data[end:]
        link.server.send(data[begin:end])


def through(url: str, port: int) -> str:
    """Return a Postgres URL that goes through a proxy, unencrypted, so that the proxy can read the messages."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    query = dict(parse_qsl(parts.query)) | {"sslmode": "disable", "gssencmode": "disable"}
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}", query=urlencode(query)))


def target_of(url: str) -> tuple[str, int]:
    """Return the host and port that a Postgres URL names."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 5432


def _size_of_message(data: bytes, begin: int, *, is_typed: bool) -> int:
    """Return the size of the message that begins there, or 0 if its end hasn't arrived."""
    head = begin + (5 if is_typed else 4)
    if len(data) < head:
        return 0
    size = int.from_bytes(data[head - 4 : head], "big") + head - 4 - begin
    return size if len(data) >= begin + size else 0
