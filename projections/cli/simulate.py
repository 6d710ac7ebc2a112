"""``projections simulate``: serve a made-up app's events over gRPC until told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventstore.errors import ConfigurationError
from projections.cli.output import say, says_errors

if TYPE_CHECKING:
    from eventstore.simulator import Simulator, Tls

_ENV = "PROJECTIONS_SIMULATOR_"
_TOKEN = "simulator"  # noqa: S105 - guards made-up events only, and the help shows it


class Served(StrEnum):
    """Which contracts are served."""

    CHAT_EXTERNAL = "chat.external"
    PCS_EXTERNAL_V1 = "pcs.external.v1"
    BOTH = "both"


@says_errors
def simulate(  # noqa: PLR0913 - every option is an argument
    *,
    port: Annotated[int, typer.Option(envvar=_ENV + "PORT", help="Port on 127.0.0.1; 0 picks a free one.")] = 0,
    contract: Annotated[
        Served, typer.Option(envvar=_ENV + "CONTRACT", help="What to serve; the rest is answered with UNIMPLEMENTED.")
    ] = Served.BOTH,
    token: Annotated[
        str, typer.Option(envvar=_ENV + "TOKEN", help="The bearer token that every call must bring.")
    ] = _TOKEN,
    seed: Annotated[
        int, typer.Option(envvar=_ENV + "SEED", help="The same seed and --epoch give the same log, byte for byte.")
    ] = 1,
    recipients: Annotated[int, typer.Option(envvar=_ENV + "RECIPIENTS", help="Recipients in all requests.")] = 2_000,
    recipients_per_request: Annotated[
        int, typer.Option(envvar=_ENV + "RECIPIENTS_PER_REQUEST", help="Recipients of one request, 1 to 1000.")
    ] = 50,
    polls: Annotated[
        float, typer.Option(envvar=_ENV + "POLLS", help="Share of requests that carry a poll, 0 to 1.")
    ] = 0.3,
    rate: Annotated[
        float | None,
        typer.Option(envvar=_ENV + "RATE", help="Events a second, appended as time goes by. Default: all at once."),
    ] = None,
    epoch: Annotated[
        datetime | None,
        typer.Option(
            envvar=_ENV + "EPOCH",
            formats=["%Y-%m-%dT%H:%M:%SZ"],
            help="The simulated now (UTC): the last event happens then, or with --rate the first. Default: now. "
            "Pin it to get the same bytes again; the clock by which cursors expire is set to it, too.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            envvar=_ENV + "FAULT",
            help="Something to go wrong, repeatable (in the variable: separated by spaces): KIND, KIND=VALUE, "
            "KIND@AFTER_EVENTS, KINDxTIMES, or all of it: KIND=VALUE@AFTER_EVENTSxTIMES. KIND: end, "
            "unavailable, unauthenticated, permission-denied, not-found, internal, resource-exhausted (VALUE: retry "
            "after 2s or 250ms), silence, duplicates (VALUE: how many), late-ulid, other-bytes, garbage, future-ulid, "
            "cursor-expired. AFTER_EVENTS counts within one stream.",
        ),
    ] = None,
    end_at_log_end: Annotated[
        bool, typer.Option(envvar=_ENV + "END_AT_LOG_END", help="End a stream normally once everything was sent.")
    ] = False,
    keep_alive: Annotated[
        float, typer.Option(envvar=_ENV + "KEEP_ALIVE", help="Seconds between keep-alives (pcs.external.v1).")
    ] = 20.0,
    replay_window: Annotated[
        float, typer.Option(envvar=_ENV + "REPLAY_WINDOW", help="Days after which a cursor expires (pcs.external.v1).")
    ] = 7.0,
    prefix: Annotated[str, typer.Option(envvar=_ENV + "PREFIX", help="A path before the methods', such as /ext.")] = "",
    cert: Annotated[
        Path | None, typer.Option(envvar=_ENV + "CERT", help="Serve TLS with this certificate (PEM).")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar=_ENV + "KEY", help="The certificate's key (PEM).")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(envvar=_ENV + "CLIENT_CA", help="Want client certificates signed by this CA (PEM).")
    ] = None,
) -> None:
    """Serve a made-up app's events over gRPC, for demos and tests.

    Prints the address when it is ready, and serves until SIGINT or SIGTERM. By default the simulated days end now, so
    that a follower that begins a week back gets them all.
    """
    from eventstore.contracts import Contract  # noqa: PLC0415 - loaded when it runs
    from eventstore.simulator import ALL_CONTRACTS, Fault, Settings, Simulator, World, entries  # noqa: PLC0415

    world = World(seed=seed, recipients=recipients, recipients_per_request=recipients_per_request, polls=polls)
    now = datetime.now(UTC)
    began = epoch.replace(tzinfo=UTC) if epoch else now
    settings = Settings(
        contracts=ALL_CONTRACTS if contract is Served.BOTH else frozenset({Contract(contract.value)}),
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
    story = world.happenings()
    try:
        ends = began + timedelta(seconds=len(story) / rate if rate else 0)
        log = entries(story, ends=ends, rate=rate, contracts=settings.contracts)
    except OverflowError:
        raise ConfigurationError("--epoch and --rate lead to times that no calendar has") from None
    simulator = Simulator(log, settings, seed=seed)
    simulator.inject(*faults)
    counts = {each: sum(each in entry.payloads for entry in log) for each in sorted(settings.contracts)}
    asyncio.run(_serve(simulator, " and ".join(f"{count:,} of {each}" for each, count in counts.items())))


def _tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    from eventstore.simulator import Tls  # noqa: PLC0415

    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise ConfigurationError("TLS takes both --cert and --key")
    try:
        return Tls(cert.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None)
    except OSError as error:
        raise ConfigurationError(f"can't read {error.filename}: {error.strerror}") from error


async def _serve(simulator: Simulator, events: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with simulator:
        settings = simulator.settings
        pace = f"at {settings.rate:g} a second" if settings.rate else "all at once"
        token = _TOKEN if settings.token == _TOKEN else "..."
        say(f"events: {events}, {pace}; Ctrl-C ends it. To follow them:")
        # Not through say(), which would redact the token that everybody may know.
        typer.echo(f"  PCS_EXTERNAL_API_URL={simulator.address} PROJECTIONS_TOKEN={token} projections run", err=True)
        sys.stdout.write(f"{simulator.address}\n")
        sys.stdout.flush()
        await stop.wait()
