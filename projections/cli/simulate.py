"""``projections simulate``: serves a made-up app's events over gRPC until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.credential_rules import check_certificate_and_key
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.fast_event_loop import run_until_signalled
from projections.cli.shared.json_documents import writes_text
from projections.cli.shared.output import print_data, print_message
from projections.cli.shared.typer_app import new_app
from projections.sandbox.simulator import (
    ALL_CONTRACTS,
    Fault,
    ServerTls,
    Simulator,
    SimulatorSettings,
    World,
    build_log,
)

app = new_app()

_ENV = "PROJECTIONS_SIMULATOR_"
_TOKEN = "simulator"  # noqa: S105 - guards made-up events only, and the help shows it


def _option(variable: str, *names: str, **settings: Any) -> Any:  # noqa: ANN401 - an option of Typer's
    """Return an option that is also an environment variable; the help says so once, for all of them."""
    return typer.Option(*names, envvar=f"{_ENV}{variable}", show_envvar=False, **settings)


class ServedContracts(StrEnum):
    """Which contracts to serve."""

    CHAT_EXTERNAL = "chat.external"
    PCS_EXTERNAL_V1 = "pcs.external.v1"
    BOTH = "both"


@app.command()
@handles_errors
@writes_text("it writes its address, and then a log")
def simulate(  # noqa: PLR0913 - every option is an argument
    *,
    port: Annotated[int, _option("PORT", help="Port on 127.0.0.1; 0 picks a free one.")] = 0,
    contract: Annotated[
        ServedContracts,
        _option("CONTRACT", help="What to serve; the other contract answers UNIMPLEMENTED."),
    ] = ServedContracts.BOTH,
    token: Annotated[str, _option("TOKEN", help="The bearer token that every call must bring.")] = _TOKEN,
    seed: Annotated[
        int,
        _option("SEED", help="The same seed and --epoch give the same log, byte for byte."),
    ] = 1,
    recipients: Annotated[int, _option("RECIPIENTS", help="Recipients in all requests.")] = 2_000,
    recipients_per_request: Annotated[
        int,
        _option("RECIPIENTS_PER_REQUEST", help="Recipients of one request, 1 to 1000."),
    ] = 50,
    polls: Annotated[
        float,
        _option("POLLS", help="Share of requests that carry a poll, 0 to 1."),
    ] = 0.3,
    rate: Annotated[
        float | None,
        _option(
            "RATE",
            help="Events per second, added as time passes. Default: all at once.",
        ),
    ] = None,
    epoch: Annotated[
        datetime | None,
        _option(
            "EPOCH",
            formats=["%Y-%m-%dT%H:%M:%SZ"],
            metavar="TIME",
            help="The simulated time (UTC, as 2026-01-05T12:00:00Z): the last event happens then, or with --rate the "
            "first. Default: now. Set it to get the same bytes again. Cursors expire by this clock, too.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        _option(
            "FAULT",
            metavar="FAULT",
            help="A fault to inject, repeatable (in the variable: separated by spaces). Write KIND, KIND=VALUE, "
            "KIND@AFTER_EVENTS, KINDxTIMES, or all together: KIND=VALUE@AFTER_EVENTSxTIMES. KIND is one of end, "
            "unavailable, unauthenticated, permission-denied, not-found, internal, resource-exhausted (VALUE: retry "
            "after 2s or 250ms), silence, duplicates (VALUE: how many), late-ulid, other-bytes, garbage, future-ulid, "
            "cursor-expired. AFTER_EVENTS counts within one stream.",
        ),
    ] = None,
    end_at_log_end: Annotated[
        bool,
        _option(
            "END_AT_LOG_END",
            "--end-at-log-end",
            help="End each stream normally after the last event.",
        ),
    ] = False,
    keep_alive: Annotated[
        float,
        _option("KEEP_ALIVE", help="Seconds between keep-alives (pcs.external.v1)."),
    ] = 20.0,
    replay_window: Annotated[
        float,
        _option(
            "REPLAY_WINDOW",
            help="Days after which a cursor expires (pcs.external.v1).",
        ),
    ] = 7.0,
    prefix: Annotated[str, _option("PREFIX", help="Path prefix for the gRPC methods, such as /ext.")] = "",
    cert: Annotated[
        Path | None,
        _option("CERT", help="Serve TLS with this certificate (PEM)."),
    ] = None,
    key: Annotated[Path | None, _option("KEY", help="The certificate's key (PEM).")] = None,
    client_ca: Annotated[
        Path | None,
        _option("CLIENT_CA", help="Require client certificates signed by this CA (PEM)."),
    ] = None,
) -> None:
    """Serve a made-up app's events over gRPC, for demos and tests.

    Prints the address when it is ready, and serves until SIGINT or SIGTERM. By default the last event happens now, so a
    follower that starts a week back gets all events.

    Each option is also an environment variable: PROJECTIONS_SIMULATOR_PORT for --port, and so on.
    """
    world = World(seed=seed, recipients=recipients, recipients_per_request=recipients_per_request, polls=polls)
    now = datetime.now(UTC)
    began = epoch.replace(tzinfo=UTC) if epoch else now
    settings = SimulatorSettings(
        contracts=ALL_CONTRACTS if contract is ServedContracts.BOTH else frozenset({Contract(contract.value)}),
        port=port,
        prefix=prefix,
        token=token,
        tls=_tls(cert, key, client_ca),
        keep_alive=keep_alive,
        replay_window=replay_window * 24 * 3600,
        rate=rate,
        end_at_log_end=end_at_log_end,
        now=lambda: time.time() + (began - now).total_seconds(),
    )
    faults = [Fault.parse(text) for text in fault or ()]
    story = world.events()
    try:
        ends = began + timedelta(seconds=len(story) / rate if rate else 0)
        log = build_log(story, ends=ends, rate=rate, contracts=settings.contracts)
    except OverflowError:
        raise UsageError("--epoch and --rate lead to times beyond the year 9999") from None
    simulator = Simulator(log, settings, seed=seed)
    simulator.inject(*faults)
    counts = {each: sum(each in entry.payloads for entry in log) for each in sorted(settings.contracts)}
    run_until_signalled(_serve(simulator, " and ".join(f"{count:,} of {each}" for each, count in counts.items())))


def _tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    check_certificate_and_key(cert, key, names=("--cert", "--key"))
    if cert is None or key is None:
        if client_ca is not None:
            raise UsageError("--client-ca needs --cert and --key: client certificates are checked over TLS only")
        return None
    try:
        return ServerTls(cert.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None)
    except OSError as error:
        raise UsageError(f"can't read {error.filename}: {error.strerror}") from error


async def _serve(simulator: Simulator, events: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with simulator:
        settings = simulator.settings
        pace = f"at {settings.rate:g} a second" if settings.rate else "all at once"
        token = _TOKEN if settings.token == _TOKEN else "..."
        print_message(f"events: {events}, {pace}; Ctrl-C stops the simulator. To follow them:")
        follow = f"  PCS_EXTERNAL_API_URL={simulator.address} PROJECTIONS_TOKEN={token} projections run"
        print_message(follow, keep_secrets=True)
        print_data(simulator.address)
        await stop.wait()
