"""One client's connection through a proxy: its two sides, and how each ends.

Invariants. What one side sends is forwarded in order. Its end is forwarded after that, and the other direction stays
open: the link is over when both sides have ended. If a client is gone, killed or not, its server reads the end of the
connection, and the link stays until the server has closed it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tests.fault.proxy import TcpProxy


class Side(asyncio.Protocol):
    """One side of a link. What it receives is forwarded to the other side.

    Attributes:
        transport: its connection; None until it is connected.
        has_ended: whether nothing more is forwarded from it.
        is_lost: whether its connection is closed.
        is_full: whether it doesn't take more bytes for now.
        is_end_held: whether it is still to be told that the other side has ended.

    """

    def __init__(self, proxy: TcpProxy, link: Link) -> None:
        self.transport: asyncio.Transport | None = None
        self.has_ended = False
        self.is_lost = False
        self.is_full = False
        self.is_end_held = False
        self._proxy = proxy
        self._link = link
        self._held = b""

    @property
    def other(self) -> Side:
        """The other side."""
        return self._link.server if self is self._link.client else self._link.client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not at once: before Python 3.11.4, a connection that is told not to read before asyncio starts to read, reads.
        asyncio.get_running_loop().call_soon(self._connected, transport)

    def _connected(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._proxy.connected(self._link, self)

    def data_received(self, data: bytes) -> None:
        if not self.has_ended:
            self._proxy.received(self._link, self, data)

    def eof_received(self) -> bool:
        self.end()
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.resume_writing()  # what still comes for it is dropped
        self.end()
        if error is not None and self is self._link.server:
            self.other.abort()
        self._proxy.disconnected(self._link)

    def pause_writing(self) -> None:
        self.is_full = True
        self.other.update_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        self.other.update_reading()

    def send(self, data: bytes, *, is_overdue: bool = False) -> None:
        """Send bytes to this side; while the proxy is paused they are held back, unless they arrived before that."""
        if self._proxy.is_paused and not is_overdue:
            self._held += data
        elif data and self.transport is not None and not self.is_lost:  # nothing is written after the end, not even b""
            self.transport.write(data)

    def end(self) -> None:
        """Forward nothing more from this side, and tell the other one."""
        if not self.has_ended:
            self.has_ended = True
            self.other.send_end()
        self._link.close_if_over()

    def send_end(self) -> None:
        """Tell this side that nothing more comes; while the proxy is paused, that is held back too."""
        self.is_end_held = self._proxy.is_paused
        if not self.is_end_held and self.transport is not None and not self.is_lost:
            self.transport.write_eof()

    def release(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, b""
        self.send(held)
        if self.is_end_held:
            self.send_end()
            self._link.close_if_over()

    def update_reading(self) -> None:
        """Read, unless the proxy is paused, or the other side isn't connected or full."""
        if self.transport is None or self.transport.is_closing():
            return
        if self._proxy.is_paused or self.other.transport is None or self.other.is_full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def abort(self) -> None:
        """Reset the connection."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and the other side knows that."""
        return self.has_ended and not self.other.is_end_held


class Link:
    """One client's connection through a proxy.

    Attributes:
        client: the client's side.
        server: the server's side.
        incomplete: the beginning of a message whose end hasn't arrived from the client.
        is_typed: whether the client's next message begins with its type.

    """

    def __init__(self, proxy: TcpProxy) -> None:
        self.client = Side(proxy, self)
        self.server = Side(proxy, self)
        self.incomplete = b""
        self.is_typed = False

    def cut(self) -> None:
        """Reset both sides at once; bytes in transit are lost."""
        self.client.abort()
        self.server.abort()

    def close_if_over(self) -> None:
        """Close both sides if both have ended."""
        if self.client.is_over and self.server.is_over:
            for side in (self.client, self.server):
                if side.transport is not None:
                    side.transport.close()
