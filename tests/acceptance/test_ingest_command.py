"""``projections ingest``, run as a process: configured by variables or a file, and beside another process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from projections.sandbox.simulator import Fault, FaultKind, SimulatorSettings
from tests.acceptance.command import QUICK, Commands
from tests.acceptance.stored_events import read_stored, wait_for_events
from tests.fix_issuer import CLIENT_ID, CLIENT_SECRET, Issuer
from tests.fix_simulator import LOG, TOKEN, SimulatorFactory, entries_of, payloads
from tests.following import log_of
from tests.store import CHAT, PCS

UNTIL_IDLE = ["ingest", "--until-idle", "1"]
EXPECTED = payloads(entries_of(CHAT), CHAT)
ALL_STORED = f"{len(EXPECTED):,} new events, 0 duplicates, 0 quarantined"


async def test_the_vendors_four_variables_are_enough(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory, issuer: Issuer
) -> None:
    simulator = await simulator_factory(LOG, SimulatorSettings(prefix="/ext", token="token-of-the-issuer-1"))
    address = f"{simulator.address}/"
    result = await commands.run(
        *UNTIL_IDLE,
        **QUICK,
        DATABASE_URL=database_url,
        PCS_EXTERNAL_API_URL=address,
        PAS_ISSUER=issuer.url,
        PCS_EXTERNAL_CLIENT_ID=CLIENT_ID,
        PCS_EXTERNAL_CLIENT_SECRET=CLIENT_SECRET,
    )
    assert (result.code, result.out) == (0, ""), result.transcript
    assert result.err.splitlines()[-1] == ALL_STORED
    assert (await read_stored(database_url)).payloads == EXPECTED
    assert [request.pairs["resource"] for request in issuer.token_requests] == [address]


@pytest.mark.parametrize("kind", ["PROJECTIONS_TOKEN", "PROJECTIONS_TOKEN_FILE"])
async def test_a_token_is_enough(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory, tmp_path: Path, kind: str
) -> None:
    simulator = await simulator_factory(LOG)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    result = await commands.run(
        *UNTIL_IDLE,
        **QUICK,
        DATABASE_URL=database_url,
        PCS_EXTERNAL_API_URL=simulator.address,
        PROJECTIONS_APP="mine",
        **{kind: TOKEN if kind == "PROJECTIONS_TOKEN" else str(file)},
    )
    assert result.code == 0, result.transcript
    assert (await read_stored(database_url, "mine")).payloads == EXPECTED


def configure_two_apps(commands: Commands, shop: str, clinic: str) -> None:
    """Write a configuration file with two apps; the arguments are their upstreams' addresses."""
    (commands.folder / "projections.toml").write_text(f"""
        [apps.shop]
        address = "{shop}"
        token = "{TOKEN}"

        [apps.clinic]
        address = "{clinic}"
        token = "{TOKEN}"
        contract = "pcs.external.v1"
        since = "5d"
    """)


async def test_two_apps_from_a_file(commands: Commands, database_url: str, simulator_factory: SimulatorFactory) -> None:
    other = log_of(30)
    configure_two_apps(commands, (await simulator_factory(LOG)).address, (await simulator_factory(other)).address)
    result = await commands.run(*UNTIL_IDLE, **QUICK, DATABASE_URL=database_url)
    assert result.code == 0, result.transcript
    assert (await read_stored(database_url, "shop")).payloads == EXPECTED
    assert (await read_stored(database_url, "clinic")).payloads == payloads(other, PCS)
    assert f"{len(EXPECTED) + 30:,} new events" in result.err


async def test_a_refused_app_is_reported_and_the_other_is_followed_to_its_end(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    refusing = await simulator_factory(log_of(30))
    refusing.inject(Fault(FaultKind.PERMISSION_DENIED))
    configure_two_apps(commands, (await simulator_factory(LOG)).address, refusing.address)
    result = await commands.run(*UNTIL_IDLE, **QUICK, DATABASE_URL=database_url)
    assert result.code == 1, result.transcript
    assert result.err.splitlines()[-1] == (
        f"projections: app 'clinic' is refused: {refusing.address} refuses the stream: "
        "PERMISSION_DENIED: simulated permission-denied"
    )
    assert (await read_stored(database_url, "shop")).payloads == EXPECTED
    assert (await read_stored(database_url, "clinic")).payloads == []


async def test_a_refused_app_continues_once_the_platform_accepts_it(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG)
    simulator.inject(Fault(FaultKind.PERMISSION_DENIED, times=2))
    configure_two_apps(commands, simulator.address, (await simulator_factory(log_of(3))).address)
    variables = {**QUICK, "DATABASE_URL": database_url, "PROJECTIONS_REFUSED_RETRY": "0.2"}
    running = await commands.start("ingest", **variables)
    await running.wait_for_stderr("refused", "app=shop", "retry_in=0.2")
    await wait_for_events(database_url, len(EXPECTED) + 3)
    await running.wait_for_stderr("following", "app=shop")
    running.send(signal.SIGTERM)
    result = await running.wait()
    assert result.code == 0, result.transcript


async def test_an_ingest_with_only_refused_apps_keeps_running_and_loads_the_corrected_configuration(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    refusing = await simulator_factory(log_of(3), SimulatorSettings(token="another"))
    simulator, other = await simulator_factory(LOG), await simulator_factory(log_of(3))
    configure_two_apps(commands, refusing.address, refusing.address)
    variables = {**QUICK, "DATABASE_URL": database_url, "PROJECTIONS_REFUSED_RETRY": "0.5"}
    running = await commands.start("ingest", **variables)
    await running.wait_for_stderr("refused", "app=shop")
    await running.wait_for_stderr("refused", "app=clinic")
    shown = await commands.run("status", DATABASE_URL=database_url)
    assert "shop is followed by" in shown.out
    assert "refused since" in shown.out
    configure_two_apps(commands, simulator.address, other.address)
    await wait_for_events(database_url, len(EXPECTED) + 3)
    running.send(signal.SIGTERM)
    assert (await running.wait()).code == 0


async def test_a_second_process_stands_by_and_takes_over_when_the_first_is_killed(
    commands: Commands, database_url: str, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG)
    variables = {
        **QUICK,
        "DATABASE_URL": database_url,
        "PCS_EXTERNAL_API_URL": simulator.address,
        "PROJECTIONS_TOKEN": TOKEN,
    }
    first = await commands.start("ingest", **variables)
    await first.wait_for_stderr("following", "app=default")
    second = await commands.start(*UNTIL_IDLE, **variables)
    line = await second.wait_for_stderr("standing by", "app=default")
    assert f":{first.pid}" in line
    assert len(simulator.calls) == 1
    await first.kill()
    later = log_of(5, ago=0)
    await simulator.append(*later)
    result = await second.wait()
    assert result.code == 0, result.transcript
    assert "following" in result.err
    assert (await read_stored(database_url)).payloads == EXPECTED + payloads(later, CHAT)
