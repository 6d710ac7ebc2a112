"""The options of the HTTP server, and serving beside the work of a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from eventstore.errors import UsageError
from eventstore.waits import Waits
from projections.http.http_options import HttpOptions
from projections.http.http_server import BoundAddress, http_server
from projections.http.web_context import WebContext
from projections.registry import Registry
from projections.running.run_parts import RunParts

HttpOption = Annotated[
    str | None,
    typer.Option(
        "--http",
        envvar="PROJECTIONS_HTTP",
        metavar="HOST:PORT",
        help="Serve a page, metrics and health checks over HTTP there, read-only; :PORT is for this machine only.",
    ),
]
PersonalDataOption = Annotated[
    bool,
    typer.Option(
        "--http-personal-data",
        envvar="PROJECTIONS_HTTP_PERSONAL_DATA",
        help="Let the page show phone numbers and what was sent to them, to everybody who can connect.",
    ),
]


def bind_if_given(address: str | None, *, personal_data: bool) -> tuple[HttpOptions, BoundAddress] | None:
    """Bind the address of the option --http; None if it wasn't given.

    Raises:
        UsageError: it is not an address, or nobody can listen there now.

    """
    if not address:
        if personal_data:
            raise UsageError("--http-personal-data needs --http")
        return None
    options = HttpOptions.parse(address, personal_data=personal_data)
    return options, BoundAddress(options)


@asynccontextmanager
async def served_over_http(
    bound: tuple[HttpOptions, BoundAddress] | None, url: str, waits: Waits, registry: Registry, parts: RunParts
) -> AsyncIterator[None]:
    """Serve while the block runs, if an address was given."""
    if bound is None:
        yield
        return
    options, address = bound
    async with http_server(address, WebContext.build(url, waits, registry, options, parts)):
        yield
