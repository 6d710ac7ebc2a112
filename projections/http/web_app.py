"""Builds the application from the lists of routes, and wraps it in what holds for every request.

Invariants. Only GET and HEAD are answered. On a loopback address the Host header must be an IP address or localhost: a
page of another site that gives its own name the address 127.0.0.1 reads nothing. A route that fails is answered with
500 and logged without the path, which may contain a phone number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projections.http.dashboard_routes import dashboard_routes
from projections.http.health_endpoints import health_routes
from projections.http.metrics_endpoint import metrics_routes
from projections.http.web_context import WebContext

log = structlog.get_logger(__name__)

ROUTES: tuple[Callable[[WebContext], Sequence[BaseRoute]], ...] = (dashboard_routes, health_routes, metrics_routes)
"""Each returns the routes of one module."""

HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every response; a route may set its own."""


def build_app(context: WebContext) -> ASGIApp:
    """Return the application."""
    routes = [route for of_module in ROUTES for route in of_module(context)]
    return _Guard(Starlette(routes=routes, exception_handlers={500: _failed}), context)


def _failed(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("this failed; the log says why\n", 500)


class _Guard:
    """What holds for every request."""

    def __init__(self, app: ASGIApp, context: WebContext) -> None:
        self._app = app
        self._checks_host = context.options.is_loopback
        self._host = context.options.host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "cache-control": "no-store"}.items():
                    headers.setdefault(name, value)
            await send(message)

        if (refusal := self._refuse(scope)) is not None:
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            endpoint = getattr(scope.get("endpoint"), "__name__", "?")
            log.exception("an http request failed", endpoint=endpoint)

    def _refuse(self, scope: Scope) -> ASGIApp | None:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD: nothing can be changed here\n", 405, {"allow": "GET, HEAD"})
        if self._checks_host and not self._is_ours(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("use the address that --http names, or localhost\n", 421)
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.lower().removesuffix(f":{host.rpartition(':')[2]}") if not host.endswith("]") else host.lower()
        name = name.strip("[]")
        if name in ("localhost", self._host):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
