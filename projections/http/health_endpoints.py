"""``/healthz`` and ``/readyz``: whether this process works, and whether its read models can be believed."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from projections.http.web_context import WebContext


def health_routes(context: WebContext) -> Sequence[BaseRoute]:
    """Return the routes of health checks."""

    async def healthz(_request: Request) -> Response:
        ended = context.parts.ended_tasks()
        lines = [f"task {name} {why}" for name, why in ended.items()] or ["ok"]
        return PlainTextResponse("\n".join([*lines, ""]), 503 if ended else 200)

    async def readyz(_request: Request) -> Response:
        reading = await context.status.current()
        if reading.error is not None:
            return PlainTextResponse(f"database unavailable: {reading.error}\n", 503)
        return PlainTextResponse("ready\n")

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
