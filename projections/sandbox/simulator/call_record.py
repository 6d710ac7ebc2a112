"""The record of each streaming call, for tests, and the error that ends a call with a status."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from eventstore.contracts import Contract
from projections.sandbox.simulator.faults import FaultKind


@dataclass(slots=True)
class Call:
    """One streaming call; updated while it lasts.

    Attributes:
        contract: its contract.
        authorization: the metadata of that name, None without it.
        after_event_id: the cursor in the request, or None.
        send_request_id: the filter in the request, or None.
        events_sent: how many events of the log were sent on it.
        keep_alives_sent: how many keep-alives were sent on it.
        faults: the faults that were injected, in order.
        injected: event bytes that were sent besides the log (duplicates, garbage, ...), without a frame.
        ended: None while the call lasts; OK if the simulator ended it; CANCELLED if the client left or the simulator
            was stopped; else the status with which it was refused.

    """

    contract: Contract
    authorization: str | None = field(repr=False)
    after_event_id: str | None = None
    send_request_id: str | None = None
    events_sent: int = 0
    keep_alives_sent: int = 0
    faults: list[FaultKind] = field(default_factory=list)
    injected: list[bytes] = field(default_factory=list, repr=False)
    ended: grpc.StatusCode | None = None


class CallError(Exception):
    """Ends a call with a status.

    Attributes:
        code: the status.
        detail: the status message.
        trailing_metadata: metadata that is sent with the status.

    """

    def __init__(self, code: grpc.StatusCode, detail: str, trailing_metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.trailing_metadata = trailing_metadata
