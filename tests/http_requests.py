"""Shared by tests of the HTTP server: finds its URL in a command's log, and sends requests."""

from __future__ import annotations

import re
from typing import NamedTuple

import httpx2

from tests.acceptance.command import RunningCommand
from tests.certificates import NO_AUTHORITIES

_URL = re.compile(r"url=(http://\S+)")


class Answer(NamedTuple):
    """An answer: its status, its headers (names in lower case), and its text."""

    status: int
    headers: dict[str, str]
    text: str


async def send_request(url: str, method: str = "GET", seconds: float = 30, /, **headers: str) -> Answer:
    """Send a request and return its answer, whatever its status; it must come within so many seconds."""
    async with httpx2.AsyncClient(trust_env=False, timeout=seconds, verify=NO_AUTHORITIES) as client:
        response = await client.request(method, url, headers=headers)
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.text
    )


async def served_url(command: RunningCommand) -> str:
    """Wait until a command serves over HTTP, and return its URL; it ends with a slash."""
    found = _URL.search(await command.wait_for_stderr("http", "url=http://"))
    assert found is not None
    return found[1]
