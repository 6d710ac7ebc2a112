"""The routes of the page: the page itself, its files, its readings, and the history of a row.

Invariants. No response holds a phone number or a request id, unless the server was started with
``--http-personal-data``; without it, a question for a history is answered with 403 and a sentence. Questions are sent
in a header, so that no phone number gets into a browser's history or into the log of a proxy.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from eventstore.errors import describe
from projections.errors import ProjectionsError, UsageError
from projections.http.page_feed import PageFeed
from projections.http.page_reading import make_safe
from projections.http.row_history import RowHistories
from projections.http.web_context import WebContext

STATIC = Path(__file__).with_name("static")
QUESTION_HEADER = "projections-question"
MAX_QUESTION_CHARACTERS = 4_000
MAX_PAGES = 100
"""Open pages; one more is answered with 503."""

PERSONAL_DATA_IS_OFF = (
    "this server shows no phone numbers and no request ids; start it with --http-personal-data to look up a person or a"
    " request, or run projections explain"
)
_EVENT_STREAM = "text/event-stream"


def dashboard_routes(context: WebContext) -> Sequence[BaseRoute]:
    """Return the routes of the page."""
    page = _DashboardEndpoints(context)
    return [
        Route("/", page.index),
        Route("/readings", page.readings),
        Route("/explain", page.explain),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]


class _DashboardEndpoints:
    def __init__(self, context: WebContext) -> None:
        self._shows_personal_data = context.options.personal_data
        self._feed = PageFeed(context)
        self._histories = RowHistories(context)
        self._open = 0

    async def index(self, _request: Request) -> Response:
        """Answer with the page, which asks for everything else."""
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def readings(self, request: Request) -> Response:
        """Answer with a stream of readings."""
        if self._open >= MAX_PAGES:
            return JSONResponse({"error": "too many pages are open; close some"}, 503)
        if request.method == "HEAD":
            return Response(media_type=_EVENT_STREAM)
        # A proxy that collects a response before it passes it on would hold back every reading.
        return StreamingResponse(self._messages(), media_type=_EVENT_STREAM, headers={"x-accel-buffering": "no"})

    async def explain(self, request: Request) -> Response:
        """Answer a question about a person, a request or a row."""
        if not self._shows_personal_data:
            return JSONResponse({"error": PERSONAL_DATA_IS_OFF}, 403)
        question = _read_question(request)
        if question is None:
            return JSONResponse({"error": f"the header {QUESTION_HEADER} must hold a question as JSON"}, 400)
        status, answer = await self._answer(question)
        return JSONResponse(make_safe(answer), status)

    async def _messages(self) -> AsyncIterator[str]:
        self._open += 1
        try:
            async for message in self._feed.messages():
                yield message
        finally:
            self._open -= 1

    async def _answer(self, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            return 200, await self._histories.answer(question)
        except UsageError as error:
            return 200, {"error": str(error)}  # an answer too: browsers log every other status as an error
        except ProjectionsError as error:
            return 409, {"error": str(error)}
        except TimeoutError:
            return 503, {"error": "this took too long, because the log is long; run projections explain instead"}
        except (psycopg.Error, OSError) as error:
            return 503, {"error": f"the database failed: {describe(error)}"}


def _read_question(request: Request) -> dict[str, Any] | None:
    text = request.headers.get(QUESTION_HEADER, "")
    if len(text) > MAX_QUESTION_CHARACTERS:
        return None
    try:
        question = json.loads(unquote(text, errors="strict"))
    except ValueError:
        return None
    return question if isinstance(question, dict) else None
