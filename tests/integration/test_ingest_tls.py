"""Ingest over TLS: a custom CA and a client certificate, neither of which can be bypassed."""

from __future__ import annotations

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs

from eventstore.ingest.upstream import NO_TLS, Tls
from projections.sandbox.simulator import ServerTls, Simulator, SimulatorSettings
from tests.certificates import Authority
from tests.fix_simulator import SimulatorFactory
from tests.following import follower, following, ingest, log_of, payloads, stored_payloads
from tests.store import CHAT

OURS, THEIRS, OTHERS = Authority("ours"), Authority("theirs"), Authority("others")
SERVER = OURS.sign("server")
CLIENT = THEIRS.sign("client")
STRANGER = OTHERS.sign("client")
LOG = log_of(3)


async def serve(factory: SimulatorFactory, server: tuple[bytes, bytes] = SERVER, client_ca: bytes | None = None) -> str:
    simulator: Simulator = await factory(LOG, SimulatorSettings(prefix="/ext", tls=ServerTls(*server, client_ca)))
    assert simulator.address.startswith("https://")
    return simulator.address


async def assert_never_connects(url: str, address: str, tls: Tls) -> None:
    """Assert that the follower retries and stores nothing."""
    with capture_logs() as logs:
        one = follower(url, address, tls=tls)
        async with following(one) as running:
            await running.wait_until(
                lambda: sum("can't serve" in str(line.get("error")) for line in logs) >= 3, "three failed calls"
            )
            outcome = await running.stop()
    assert (outcome.stored, outcome.refused) == (0, {})


async def test_a_server_with_a_certificate_of_the_given_ca_is_trusted(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    address = await serve(simulator_factory)
    await ingest(follower(database_url, address, tls=Tls(ca=OURS.certificate)))
    assert await stored_payloads(conn) == payloads(LOG, CHAT)


@pytest.mark.parametrize("tls", [NO_TLS, Tls(ca=OTHERS.certificate)], ids=["the system's trust", "another authority"])
async def test_a_server_with_a_certificate_of_an_unknown_ca_is_not_trusted(
    database_url: str, simulator_factory: SimulatorFactory, tls: Tls
) -> None:
    await assert_never_connects(database_url, await serve(simulator_factory), tls)


async def test_a_server_with_another_name_is_not_trusted(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    address = await serve(simulator_factory, OURS.sign("server", "127.0.0.2"))
    await assert_never_connects(database_url, address, Tls(ca=OURS.certificate))


async def test_the_client_certificate_is_sent(
    database_url: str, conn: AsyncConnection, simulator_factory: SimulatorFactory
) -> None:
    address = await serve(simulator_factory, client_ca=THEIRS.certificate)
    await ingest(follower(database_url, address, tls=Tls(OURS.certificate, *CLIENT)))
    assert await stored_payloads(conn) == payloads(LOG, CHAT)


@pytest.mark.parametrize("client", [(None, None), STRANGER], ids=["none", "another authority's"])
async def test_without_the_required_client_certificate_nothing_is_received(
    database_url: str, simulator_factory: SimulatorFactory, client: tuple[bytes | None, bytes | None]
) -> None:
    address = await serve(simulator_factory, client_ca=THEIRS.certificate)
    await assert_never_connects(database_url, address, Tls(OURS.certificate, *client))


async def test_plaintext_to_a_tls_server_receives_nothing(
    database_url: str, simulator_factory: SimulatorFactory
) -> None:
    address = await serve(simulator_factory)
    await assert_never_connects(database_url, address.replace("https://", "http://"), NO_TLS)
