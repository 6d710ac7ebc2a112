"""``/healthz`` and ``/readyz``: whether this process works, and whether what it keeps up to date can be believed.

Invariant. ``/healthz`` doesn't ask the database: a process that waits for its database is alive, and a restart would
not help.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from projections.http.readiness import judge_readiness
from projections.http.web_context import WebContext
from projections.terminal_text import visible


def health_routes(context: WebContext) -> Sequence[BaseRoute]:
    """Return the routes of health checks."""

    async def healthz(request: Request) -> Response:
        problems = [f"task {name!r} ended: {why}" for name, why in context.parts.ended_tasks().items()]
        return _answer(request, "not alive" if problems else "alive", problems, [])

    async def readyz(request: Request) -> Response:
        reading = await context.status.current()
        found = judge_readiness(reading, context.parts, context.waits, stalled_after=context.settings.stalled_after)
        return _answer(request, found.word, found.problems, found.notes)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _answer(request: Request, word: str, problems: list[str], notes: list[str]) -> Response:
    status = 503 if problems else 200
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"status": word, "problems": problems, "notes": notes}, status)
    return PlainTextResponse("".join(f"{visible(line)}\n" for line in (word, *problems, *notes)), status)
