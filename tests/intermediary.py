"""A proxy in front of a gRPC server that forwards a connection, or answers it itself as intermediaries do."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4

Headers = Sequence[tuple[str, str]]
HTML = b"<html><body>Forbidden</body></html>"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(headers: Headers) -> bytes:
    """Encode headers in HPACK without compression: each field is a literal with its name."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in headers)


def _string(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127
    return bytes([len(raw)]) + raw


class Reply:
    """What the proxy sends instead of forwarding; each part is sent as a separate segment."""

    def __init__(self, *parts: bytes, http1: bool = False) -> None:
        self.parts = parts
        self.http1 = http1


def http2(status: int, *headers: tuple[str, str], body: bytes = b"") -> Reply:
    """Return an HTTP/2 response without a gRPC status."""
    block = header_block([(":status", str(status)), *headers])
    if not body:
        return Reply(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    return Reply(frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, body))


def http1(status: int) -> Reply:
    head = f"HTTP/1.1 {status} Response\r\nContent-Type: text/html\r\nContent-Length: {len(HTML)}\r\n\r\n"
    return Reply(head.encode() + HTML, http1=True)


def reset(code: int) -> Reply:
    return Reply(frame(RST_STREAM, 0, 1, struct.pack(">I", code)))


def goaway(code: int) -> Reply:
    return Reply(frame(GOAWAY, 0, 0, struct.pack(">II", 0, code) + b"calm down"))


class Intermediary:
    """Sends one reply for each connection; once there are none left, it forwards connections.

    Attributes:
        replies: the replies to the next connections; None forwards one.
        answered: how many connections got a reply.

    """

    def __init__(self, backend: int) -> None:
        self.replies: list[Reply | None] = []
        self.answered = 0
        self.port = 0
        self._backend = backend
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            reply = self.replies.pop(0) if self.replies else None
            if reply is None:
                await self._forward(reader, writer)
            else:
                self.answered += 1
                await _play(reply, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client disconnected
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._backend)
        self._writers.add(back_writer)
        try:
            await asyncio.gather(_pipe(reader, back_writer), _pipe(back_reader, writer))
        finally:
            self._writers.discard(back_writer)
            back_writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _play(reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if reply.http1:
        await reader.read(len(PREFACE))
    else:
        writer.write(frame(SETTINGS, 0, 0, b""))
        await _request(reader, writer)
    for part in reply.parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.05)  # so that it is a separate segment; the result doesn't depend on it
    await reader.read()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read up to the request's headers."""
    assert await reader.readexactly(len(PREFACE)) == PREFACE
    kind = SETTINGS
    while kind != HEADERS:
        head = await reader.readexactly(9)
        kind, flags = head[3], head[4]
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and not flags & ACK:
            writer.write(frame(SETTINGS, ACK, 0, b""))


@asynccontextmanager
async def intermediary_for(
    backend: int, make: Callable[[int], Intermediary] = Intermediary
) -> AsyncIterator[Intermediary]:
    """Run the proxy in front of a port of this machine."""
    proxy = make(backend)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.aclose()
