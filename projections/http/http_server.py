"""Binds the address, and runs uvicorn as a task of the command's event loop.

Invariants. The address is bound before the command does anything else, so one that is in use ends it at once, with one
sentence. uvicorn installs no signal handlers: the command decides when it ends. Stopping the server takes no longer
than ``STOP_SECONDS``, whoever is still connected.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
import uvicorn

from eventstore.errors import UsageError
from projections.http.http_options import HttpOptions
from projections.http.web_app import build_app
from projections.http.web_context import WebContext

log = structlog.get_logger(__name__)

STOP_SECONDS = 0.5
MAX_CONNECTIONS = 1000
"""Connections beyond this number are answered with 503, so that nobody can use up the process's file descriptors."""


class BoundAddress:
    """A bound socket.

    Args:
        options: the address.

    Attributes:
        socket: the socket, which doesn't listen yet.
        url: the URL for people.

    Raises:
        UsageError: nobody can listen there now; the message says why.

    """

    def __init__(self, options: HttpOptions) -> None:
        self.socket = _bind(options)
        self.url = options.url(self.socket.getsockname()[1])
        if not options.is_loopback:
            what = "phone numbers included" if options.personal_data else "without phone numbers"
            log.warning(
                "http is not limited to this machine: whoever can connect reads the state of the system, without a"
                " password",
                url=self.url,
                shows=what,
            )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def http_server(bound: BoundAddress, context: WebContext) -> AsyncIterator[None]:
    """Serve while the block runs; the context is closed at its end."""
    config = uvicorn.Config(
        build_app(context),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what goes wrong in a route, we log ourselves
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound.socket]), name="http")
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn sets a flag
            await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
        log.info("http", url=bound.url)
        yield
    finally:
        context.status.stop()
        server.should_exit = server.force_exit = True
        await asyncio.wait({serving}, timeout=STOP_SECONDS)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        with suppress(OSError):
            bound.socket.close()
        await context.close()


def _bind(options: HttpOptions) -> socket.socket:
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"--http: the host {options.host!r} has no address; use an IP address") from None
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        raise UsageError(_why_not_bound(options, error)) from None
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def _why_not_bound(options: HttpOptions, error: OSError) -> str:
    where = options.url(options.port).removeprefix("http://").rstrip("/")
    if error.errno == errno.EADDRINUSE:
        return f"--http: another process listens on {where}; stop it, or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--http: this machine has no address {options.host}; use 127.0.0.1, or one of its own"
    if error.errno == errno.EACCES:
        return f"--http: this user may not listen on port {options.port}; choose one from 1024 on"
    return f"--http: can't listen on {where}: {error.strerror}"
