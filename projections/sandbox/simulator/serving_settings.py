"""How the simulator serves: which contracts, to whom, how fast, and its time limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from eventstore.contracts import Contract
from eventstore.errors import UsageError

ALL_CONTRACTS = frozenset(Contract)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes for TLS; with ``client_ca`` every client must show a certificate that it signed."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """How the simulator serves.

    Args:
        contracts: those that are served; the others are answered with UNIMPLEMENTED.
        port: on 127.0.0.1; 0 picks a free one.
        prefix: a path in front of the methods' paths, such as ``/ext``.
        token: the bearer token that every call must bring. None asks for none.
        tls: None serves plaintext.
        keep_alive: seconds between keep-alives on a ``pcs.external.v1`` stream.
        replay_window: seconds; on ``pcs.external.v1`` a cursor older than that has expired.
        rate: events a second that are appended to the log from the start on; None: all are there at once.
        end_at_log_end: end a stream normally once everything was sent, instead of waiting for more.
        now: the clock by which cursors grow old, in seconds since 1970.

    Raises:
        UsageError: a value lies outside its limits.

    """

    contracts: frozenset[Contract] = ALL_CONTRACTS
    port: int = 0
    prefix: str = ""
    token: str | None = field(default="simulator", repr=False)
    tls: Tls | None = None
    keep_alive: float = 20.0
    replay_window: float = 7 * 24 * 3600.0
    rate: float | None = None
    end_at_log_end: bool = False
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.contracts:
            raise UsageError("at least one contract has to be served")
        if not 0 <= self.port <= 65_535:
            raise UsageError("a port is a number from 0 to 65535")
        if self.prefix and (not self.prefix.startswith("/") or self.prefix.endswith("/")):
            raise UsageError("a path prefix begins with / and does not end with it")
        if not (0 < self.keep_alive < math.inf and 0 < self.replay_window < math.inf):
            raise UsageError("the keep-alive interval and the replay window are numbers greater than 0")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError("the rate is a number greater than 0: events a second")
