"""The proxy of the fault tests."""

from __future__ import annotations

import asyncio

from tests.fault.proxy import TcpProxy


async def test_a_side_that_has_ended_is_resumed() -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.write(await asyncio.wait_for(answers.get(), 30))
        writer.close()

    answers: asyncio.Queue[bytes] = asyncio.Queue()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, TcpProxy(*server.sockets[0].getsockname()) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"question")
        writer.write_eof()
        await ended.wait()
        proxy.pause()
        proxy.resume()
        answers.put_nowait(b"answer")
        assert await reader.read() == b"answer"
        writer.close()
