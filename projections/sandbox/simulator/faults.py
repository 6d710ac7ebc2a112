"""The faults that can be injected into a stream, and the plan that says when they happen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import grpc

from eventstore.errors import UsageError


class FaultKind(StrEnum):
    """The kinds of faults. Those in ``STATUSES`` end the stream with that status."""

    END = "end"
    UNAVAILABLE = "unavailable"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission-denied"
    NOT_FOUND = "not-found"
    INTERNAL = "internal"
    RESOURCE_EXHAUSTED = "resource-exhausted"
    SILENCE = "silence"
    DUPLICATES = "duplicates"
    LATE_ULID = "late-ulid"
    OTHER_BYTES = "other-bytes"
    GARBAGE = "garbage"
    FUTURE_ULID = "future-ulid"
    CURSOR_EXPIRED = "cursor-expired"


STATUSES = {
    FaultKind.END: grpc.StatusCode.OK,
    FaultKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    FaultKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    FaultKind.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    FaultKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    FaultKind.INTERNAL: grpc.StatusCode.INTERNAL,
    FaultKind.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_VARIANTS_OF_SENT_EVENTS = {
    FaultKind.DUPLICATES,
    FaultKind.LATE_ULID,
    FaultKind.OTHER_BYTES,
    FaultKind.FUTURE_ULID,
}
_TAKES_A_WAIT = {FaultKind.RESOURCE_EXHAUSTED}
_TAKES_A_COUNT = {FaultKind.DUPLICATES}
_SHAPE = re.compile(r"([a-z-]+)(?:=(\d+)(ms|s)?)?(?:@(\d+))?(?:x(\d+))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, which happens a number of times.

    Args:
        kind: the kind of fault.
        after: only after a stream has sent this many events; duplicates, late, other and future events need at least
            one event, since they are variants of it.
        times: how often it happens, on one stream or on several.
        retry_after: for RESOURCE_EXHAUSTED, seconds for the trailing metadata ``retry-after``.
        retry_after_ms: the same in milliseconds, for ``retry-after-ms``.
        count: for DUPLICATES, how many of the last events are sent again.
        data: for GARBAGE, the whole message to send; None makes up bytes that can't be decoded.

    """

    kind: FaultKind
    after: int = 0
    times: int = 1
    retry_after: int | None = None
    retry_after_ms: int | None = None
    count: int = 5
    data: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse ``KIND[=VALUE][@AFTER_EVENTS][xTIMES]``; VALUE is a time to wait (``2s``, ``250ms``) or a count.

        Raises:
            UsageError: the text has another form.

        """
        match = _SHAPE.fullmatch(text)
        kinds = set(map(str, FaultKind))
        if match is None or match[1] not in kinds:
            raise UsageError(
                f"fault {text!r}: expected KIND[=VALUE][@AFTER_EVENTS][xTIMES] with KIND one of {', '.join(FaultKind)}"
            )
        kind, value, unit = FaultKind(match[1]), match[2], match[3]
        after, times = int(match[4] or 0), int(match[5] or 1)
        if value is None:
            return cls(kind, after, times)
        if kind in _TAKES_A_WAIT and unit == "ms":
            return cls(kind, after, times, retry_after_ms=int(value))
        if kind in _TAKES_A_WAIT and unit == "s":
            return cls(kind, after, times, retry_after=int(value))
        if kind in _TAKES_A_COUNT and unit is None:
            return cls(kind, after, times, count=int(value))
        raise UsageError(
            f"fault {text!r}: only resource-exhausted takes a time (2s or 250ms), and only duplicates a count"
        )

    @property
    def earliest(self) -> int:
        """How many events a stream must have sent before this can happen on it."""
        return max(self.after, 1) if self.kind in _VARIANTS_OF_SENT_EVENTS else self.after

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that is sent with the status."""
        waits = (("retry-after", self.retry_after), ("retry-after-ms", self.retry_after_ms))
        return tuple((name, str(wait)) for name, wait in waits if wait is not None)


class FaultPlan:
    """The faults that have not happened yet, in the order in which they were added."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int]] = []

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        if fault.times > 0:
            self._left.append((fault, fault.times))

    def take(self, sent: int, *, expires: bool) -> Fault | None:
        """Return the first fault that is due on a stream, and count it as happened.

        Args:
            sent: how many events the stream has sent.
            expires: whether the stream's contract has a message for an expired cursor.

        """
        for at, (fault, times) in enumerate(self._left):
            if fault.earliest <= sent and (expires or fault.kind is not FaultKind.CURSOR_EXPIRED):
                self._left[at : at + 1] = [(fault, times - 1)] if times > 1 else []
                return fault
        return None

    def __bool__(self) -> bool:
        return bool(self._left)
