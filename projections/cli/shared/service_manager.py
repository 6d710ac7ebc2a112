"""Tells a service manager (systemd, ``Type=notify``) that a process is ready, alive and stopping.

Invariants. Without ``NOTIFY_SOCKET`` in the environment nothing is sent. READY is sent once, after the tasks that the
block created have begun. The event loop itself sends WATCHDOG, so a loop that is blocked sends none, and the service
manager restarts the process. A service manager that doesn't listen neither ends nor delays the work.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

SEND_SECONDS = 1.0
"""How long one message waits for a service manager that doesn't read."""
_STOPPING = "STOPPING=1\nSTATUS=stopping"


@asynccontextmanager
async def service_manager_notified(stop: asyncio.Event, doing: str) -> AsyncIterator[None]:
    """Send READY, then WATCHDOG as often as the service manager asks, and STOPPING when ``stop`` is set or at the end.

    Args:
        stop: is set when the process begins to stop.
        doing: what the process does; ``systemctl status`` shows it.

    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):  # other kinds of sockets are for virtual machines
        yield
        return
    sending = [asyncio.create_task(_send_ready_and_stopping(address, stop, doing))]
    interval = watchdog_interval()
    if interval is not None:
        sending.append(asyncio.create_task(_send_watchdog(address, interval)))
    try:
        yield
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        await _send(address, _STOPPING)


def watchdog_interval() -> float | None:
    """Return how many seconds lie between two WATCHDOGs, half of what is allowed; None if nobody asked this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdecimal() and int(microseconds) > 0 else None


async def _send_ready_and_stopping(address: str, stop: asyncio.Event, doing: str) -> None:
    for _ in range(2):  # the tasks that the block creates, and those that these create, begin first
        await asyncio.sleep(0)
    await _send(address, f"READY=1\nSTATUS={doing}")
    await stop.wait()
    await _send(address, _STOPPING)


async def _send_watchdog(address: str, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        await _send(address, "WATCHDOG=1")


async def _send(address: str, message: str) -> None:
    path = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)  # the event loop needs that
            sock.connect(path)
            async with asyncio.timeout(SEND_SECONDS):
                await asyncio.get_running_loop().sock_sendall(sock, message.encode())
    except OSError as error:  # a TimeoutError is one, too
        log.warning("the service manager does not listen", message=message.partition("\n")[0], error=str(error))
