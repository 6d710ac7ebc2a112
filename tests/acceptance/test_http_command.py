"""The HTTP server as a user starts it: ``--http`` and ``projections dashboard``."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import httpx2
import pytest

from tests import store, wire
from tests.acceptance.command import QUICK, Commands
from tests.http_requests import send_request, served_url
from tests.scripted import scripted_server, stays_open
from tests.unit.test_deploy_files import health_check

ANY_PORT = "127.0.0.1:0"


async def is_healthy_in_a_container(url: str) -> bool:
    """Run the health check of the image against a server, as a container engine would."""
    program, *arguments = health_check()
    assert program == "python"
    address = url.removeprefix("http://").rstrip("/")
    checked = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={"PROJECTIONS_HTTP": address}, stderr=asyncio.subprocess.DEVNULL
    )
    return await checked.wait() == 0


async def test_dashboard_serves_reads_only_and_ends_at_a_signal(commands: Commands, database_url: str) -> None:
    dashboard = await commands.installed.start("dashboard", "--http", ANY_PORT, DATABASE_URL=database_url)
    url = await served_url(dashboard)
    assert url.startswith("http://127.0.0.1:")
    for path in ("healthz", "readyz"):
        answer = await send_request(url + path)
        assert answer.status == 200, answer
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await send_request(url + "healthz", "HEAD")).text == ""
    assert await is_healthy_in_a_container(url)
    assert (await send_request(url + "healthz", "POST")).status == 405
    # A page of another site can give its own name our address, but not our name.
    assert (await send_request(url + "healthz", host="attacker.example")).status == 421
    assert (await send_request(url + "healthz", host="localhost:1")).status == 200
    taken = url.removeprefix("http://").rstrip("/")
    refused = await commands.run("run", "--no-ingest", "--http", taken, DATABASE_URL=database_url)
    assert refused.code == 2
    assert (
        refused.stderr_line
        == f"projections: --http: another process listens on {taken}; stop it, or choose another port"
    )
    # A frozen process accepts connections, since the system does that, and answers nothing.
    dashboard.send(signal.SIGSTOP)
    with pytest.raises(httpx2.ReadTimeout):
        await send_request(url + "healthz", "GET", 0.5)
    dashboard.send(signal.SIGCONT)
    assert (await send_request(url + "healthz")).status == 200
    dashboard.send(signal.SIGTERM)
    ended = await dashboard.wait()
    assert (ended.code, ended.out) == (0, ""), ended.transcript
    assert not await is_healthy_in_a_container(url)


async def test_ingest_serves_what_it_receives_until_it_is_stopped(commands: Commands, database_url: str) -> None:
    events = [wire.event(store.next_ulid(), recipient=wire.recipient("12300000001")) for _ in range(3)]
    async with scripted_server(stays_open(*events)) as upstream:
        variables = {**QUICK, "DATABASE_URL": database_url, "PCS_EXTERNAL_API_URL": upstream.address}
        ingest = await commands.start("ingest", **variables, PROJECTIONS_TOKEN="token", PROJECTIONS_HTTP=ANY_PORT)
        url = await served_url(ingest)

        async def ready() -> bool:
            stored = (
                'projections_appended_events_total{app="default"} 3.0' in (await send_request(url + "metrics")).text
            )
            return stored and (await send_request(url + "readyz")).text == "ready\n"

        await store.wait_until(ready, "three events, and readiness")
        metrics = (await send_request(url + "metrics")).text
        assert "projections_window_seconds" not in metrics
        ingest.send(signal.SIGTERM)
        assert (await ingest.wait()).code == 0


@pytest.mark.parametrize("command", [("run", "--no-ingest"), ("ingest",), ("dashboard",)], ids=lambda words: words[0])
@pytest.mark.parametrize("address", ["somewhere", "::1:80", "127.0.0.1:99999", "name.invalid:80", "192.0.2.1:80"])
async def test_an_address_that_cannot_work_is_one_sentence(
    commands: Commands, command: tuple[str, ...], address: str
) -> None:
    result = await commands.run(*command, "--http", address)
    assert result.code == 2
    assert result.stderr_line.startswith("projections: --http")


async def test_an_address_beyond_this_machine_is_allowed_with_a_warning(commands: Commands, database_url: str) -> None:
    dashboard = await commands.start("dashboard", "--http", "0.0.0.0:0", DATABASE_URL=database_url)
    await dashboard.wait_for_stderr("not limited to this machine")
    port = int((await served_url(dashboard)).rstrip("/").rpartition(":")[2])
    assert (await send_request(f"http://127.0.0.1:{port}/healthz", host="projections.internal")).status == 200
    with socket.create_connection(("127.0.0.1", port)):  # an open connection doesn't delay the end
        dashboard.send(signal.SIGINT)
        assert (await dashboard.wait()).code == 0
