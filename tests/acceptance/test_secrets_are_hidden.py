"""Output at debug level holds no token, secret, password or phone number, whatever fails during an ingest."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, urlsplit

import grpc
import psycopg
import pytest

from tests import wire
from tests.acceptance.command import QUICK, CommandResult, Commands
from tests.acceptance.stored_events import read_stored, wait_for_events
from tests.fault.proxy import TcpProxy, target_of, through
from tests.fix_issuer import CLIENT_ID, CLIENT_SECRET, Answer, Issuer
from tests.scripted import Script, ScriptedServer, ends_with, scripted_server, stays_open

TOKEN, SECOND_TOKEN = "token-of-the-issuer-1", "token-of-the-issuer-2"
PPNUMS = [str(49_151_000_000 + number) for number in range(40)]


def event(ppnum: str, error_code: str | None = None) -> bytes:
    return wire.event(recipient=wire.recipient(ppnum, message_id=f"to {ppnum}", error_code=error_code))


def quoting(token: str) -> str:
    """An error message that quotes a token and phone numbers."""
    return (
        f"bad token {token} (authorization: Bearer {token}) of +{PPNUMS[0]}, ppnum{PPNUMS[1]}, {formatted(PPNUMS[10])}"
    )


def formatted(ppnum: str) -> str:
    """A phone number as people write it."""
    return f"+{ppnum[:2]} (0){ppnum[2:5]} {ppnum[5:8]}-{ppnum[8:]}"


BASIC_AUTH = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
QUOTED = (
    f"{quote(CLIENT_SECRET, safe='')} {json.dumps(html.escape(CLIENT_SECRET))} {BASIC_AUTH} {formatted(PPNUMS[11])}"
)
"""What an issuer may quote from the form and the header that it received."""


def failing_calls() -> list[Script]:
    """Calls that fail with errors which quote secrets; the last one sends all events."""
    events = [event(ppnum) for ppnum in PPNUMS]
    again = wire.event(wire.ulid_at(wire.EPOCH.replace(year=2026)), recipient=wire.recipient(PPNUMS[2]))
    other_bytes = again + wire.bytes_field(4, wire.recipient(PPNUMS[3]))
    garbage = b"\xff" * 11 + f"{PPNUMS[4]} {TOKEN} {CLIENT_SECRET}".encode()
    no_ulid = wire.event(PPNUMS[5], recipient=wire.recipient(PPNUMS[5]))
    no_time = event(PPNUMS[6], error_code=PPNUMS[6]) + wire.bytes_field(6, f"at {PPNUMS[6]}")
    codes = grpc.StatusCode
    return [
        ends_with(codes.UNAVAILABLE, *events[:20], details=quoting(TOKEN)),
        ends_with(codes.INTERNAL, again, other_bytes, garbage, no_ulid, no_time, details=quoting(TOKEN)),
        ends_with(codes.UNAUTHENTICATED, details=quoting(TOKEN)),
        stays_open(*events),
    ]


@pytest.mark.parametrize("style", ["text", "json"])
async def test_an_ingest_at_debug_level_logs_no_secret(
    commands: Commands, database_url: str, issuer: Issuer, style: str
) -> None:
    with psycopg.connect(database_url) as connection:  # Postgres quotes the whole row in its DETAIL
        connection.execute("ALTER TABLE eventstore.events ADD CHECK (ppnum <> '49151000007')")  # PPNUMS[7]
    issuer.answers.append(Answer(400, {"error": "slow_down", "error_description": f"{QUOTED} {PPNUMS[8]}"}))
    async with scripted_server(*failing_calls()) as upstream, TcpProxy(*target_of(database_url)) as proxy:
        running = await commands.start(
            *("-v", "--log-level", "debug", "--log-format", style, "ingest", "--until-idle", "2"),
            **QUICK,
            PROJECTIONS_LEADER_HEARTBEAT="0.1",  # so that the cut is noticed although nothing more is written
            DATABASE_URL=through(database_url, proxy.port),
            PCS_EXTERNAL_API_URL=upstream.address,
            PAS_ISSUER=issuer.url,
            PCS_EXTERNAL_CLIENT_ID=CLIENT_ID,
            PCS_EXTERNAL_CLIENT_SECRET=CLIENT_SECRET,
        )
        await wait_for_events(database_url, 21)  # only the last call sends that many
        proxy.refuse()  # so that the next connection fails too, whichever session notices the cut
        proxy.cut()  # errors of the driver
        await running.wait_for_stderr("database unavailable")
        proxy.accept()
        result = await running.wait()
    assert (result.code, result.out) == (0, ""), result.transcript
    found = await read_stored(database_url)
    assert len(found.payloads) >= len(PPNUMS) - 1
    assert issuer.tokens[:2] == [TOKEN, SECOND_TOKEN]
    for words in ("slow_down", "UNAUTHENTICATED", "quarantined", "database unavailable", "[hidden]"):
        assert words in result.err, words
    with psycopg.connect(database_url) as connection:
        reasons = connection.execute("SELECT reason FROM eventstore.quarantine").fetchall()
    assert ("Postgres can't store it (SQLSTATE 23514)",) in reasons
    assert_nothing_secret(result, database_url)
    if style == "json":
        lines = [json.loads(line)["event"] for line in result.err.splitlines()]
        assert lines[-1].endswith(" quarantined")


async def test_a_refusal_that_quotes_secrets_is_redacted(commands: Commands, database_url: str, issuer: Issuer) -> None:
    async with scripted_server(
        ends_with(grpc.StatusCode.PERMISSION_DENIED, event(PPNUMS[9]), details=quoting(TOKEN))
    ) as upstream:
        result = await run_refused(commands, database_url, upstream, issuer)
        assert "PERMISSION_DENIED: bad token [hidden]" in result.err
    issuer.always = Answer(
        401, {"error": "invalid_client", "error_description": f"{CLIENT_SECRET} is not known {QUOTED}"}
    )
    async with scripted_server(stays_open()) as upstream:
        result = await run_refused(commands, database_url, upstream, issuer)
        assert "invalid_client: [hidden] is not known" in result.err


async def run_refused(commands: Commands, url: str, upstream: ScriptedServer, issuer: Issuer) -> CommandResult:
    """Run an ingest that is refused; returns its result, after a check that no secret is shown."""
    result = await commands.run(
        *("-v", "--log-level", "debug", "ingest", "--until-idle", "2"),
        **QUICK,
        DATABASE_URL=url,
        PCS_EXTERNAL_API_URL=upstream.address,
        PAS_ISSUER=issuer.url,
        PCS_EXTERNAL_CLIENT_ID=CLIENT_ID,
        PCS_EXTERNAL_CLIENT_SECRET=CLIENT_SECRET,
    )
    assert (result.code, result.out) == (1, ""), result.transcript
    assert_nothing_secret(result, url)
    status = await commands.run("status", "--json", DATABASE_URL=url)
    assert json.loads(status.out)["apps"][0]["last_error"], "the refusal is stored, redacted"
    assert_nothing_secret(status, url)
    return result


def assert_nothing_secret(result: CommandResult, url: str) -> None:
    password = str(urlsplit(url).password)
    secrets = [TOKEN, SECOND_TOKEN, CLIENT_SECRET, quote(CLIENT_SECRET), quote(CLIENT_SECRET, safe=""), password]
    secrets += [
        html.escape(CLIENT_SECRET),
        BASIC_AUTH,
        BASIC_AUTH[8:],
        formatted(PPNUMS[10]),
        formatted(PPNUMS[11]),
    ]
    output = result.out + result.err
    assert [secret for secret in [*secrets, *PPNUMS] if secret in output] == []
