"""Proxies that tests cut, pause and resume; one of them counts the messages that clients send to Postgres.

A proxy listens on a port of 127.0.0.1 and forwards bytes in both directions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

CHUNK = 2**16
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
TERMINATE = b"X"
"""The type of the Terminate message, with which a client of Postgres ends its session."""


class Overdue(bytes):
    """Bytes that are forwarded although the proxy is paused: they arrived before that."""


class Link:
    """One client's connection through a proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)

    def cut(self) -> None:
        """Reset both sides at once; bytes in transit are lost."""
        for writer in self._writers:
            writer.transport.abort()


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
        self._changed = asyncio.Condition()
        self._refusing = False
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""
        for link in list(self._links):
            link.cut()

    def pause(self) -> None:
        """Stop forwarding and keep all connections open, as if the other side were frozen."""
        self._resumed.clear()
        self._paused.set()

    def resume(self) -> None:
        """Forward the bytes that were held back, and all later ones."""
        self._paused.clear()
        self._resumed.set()

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
        async with self._changed:
            await self._changed.wait_for(lambda: self.accepted >= count)

    async def wait_for_disconnect(self) -> None:
        """Wait until there is no connection."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._links)

    async def to_server(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield the bytes to forward from the client to the server, piece by piece."""
        while data := await reader.read(CHUNK):
            yield data

    def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._refusing:
            client.transport.abort()
            return
        task = asyncio.create_task(self._forward(client_reader, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            await self._resumed.wait()
            server_reader, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        except asyncio.CancelledError:
            client.transport.abort()
            raise
        link = Link(client, server)
        self._links.add(link)
        self.accepted += 1
        await self._notify()
        try:
            with suppress(OSError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(self.to_server(client_reader), server))
                    group.create_task(self._pump(_chunks(server_reader), client))
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            link.cut()
            await self._notify()

    async def _pump(self, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
        async for piece in pieces:
            if not isinstance(piece, Overdue):
                await self._resumed.wait()
            writer.write(piece)
            await writer.drain()
        await self._resumed.wait()
        with suppress(OSError):
            writer.write_eof()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


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

    async def to_server(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield whole messages, those that arrived together in one piece; ``before`` is called before each."""
        buffer, typed = bytearray(), False
        while data := await reader.read(CHUNK):
            buffer += data
            piece = b""
            while message := _first_message(buffer, typed=typed):
                del buffer[: len(message)]
                kind = message[:1] if typed else b""
                typed = typed or int.from_bytes(message[4:8], "big") not in {SSL_REQUEST, GSS_REQUEST}
                self.messages += 1
                was_paused = self.is_paused
                if self.before is not None and not self.before(self.messages, kind):
                    yield piece
                    return
                if self.is_paused and not was_paused:  # what came before this message is forwarded all the same
                    yield Overdue(piece)
                    piece = b""
                piece += message
            yield piece


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


def _first_message(buffer: bytearray, *, typed: bool) -> bytes:
    """Return the message that begins the buffer, or nothing if its end hasn't arrived."""
    head = 5 if typed else 4
    if len(buffer) < head:
        return b""
    size = int.from_bytes(buffer[head - 4 : head], "big") + head - 4
    return bytes(buffer[:size]) if len(buffer) >= size else b""


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(CHUNK):
        yield data
