"""The simulator's settings: contracts, port, token, TLS, rate and intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from eventstore.contracts import Contract
from eventstore.errors import UsageError

ALL_CONTRACTS = frozenset(Contract)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM bytes for TLS; with ``client_ca`` every client must have a certificate signed by it."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """How the simulator serves.

    Args:
        contracts: the contracts that are served; others are answered with UNIMPLEMENTED.
        port: the port on 127.0.0.1; 0 chooses a free one.
        prefix: a path that is put before the methods' paths, such as ``/ext``.
        token: the bearer token that every call must have; None for none.
        tls: None for plaintext.
        keep_alive: seconds between keep-alives on a ``pcs.external.v1`` stream.
        replay_window: seconds; on ``pcs.external.v1`` an older cursor has expired.
        rate: how many events a second are appended to the log from the start on; None: all at once.
        end_at_log_end: end a stream normally once all events are sent, instead of waiting for more.
        now: the clock that decides whether a cursor has expired, in seconds since 1970.

    Raises:
        UsageError: a value is outside its limits.

    """

    contracts: frozenset[Contract] = ALL_CONTRACTS
    port: int = 0
    prefix: str = ""
    token: str | None = field(default="simulator", repr=False)
    tls: ServerTls | None = None
    keep_alive: float = 20.0
    replay_window: float = 7 * 24 * 3600.0
    rate: float | None = None
    end_at_log_end: bool = False
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.contracts:
            raise UsageError("at least one contract must be served")
        if not 0 <= self.port <= 65_535:
            raise UsageError("the port must be a number from 0 to 65535")
        if self.prefix and (not self.prefix.startswith("/") or self.prefix.endswith("/")):
            raise UsageError("the path prefix must start with / and must not end with /")
        if not (0 < self.keep_alive < math.inf and 0 < self.replay_window < math.inf):
            raise UsageError("the keep-alive interval and the replay window must be greater than 0")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError("the rate must be greater than 0 (events a second)")
