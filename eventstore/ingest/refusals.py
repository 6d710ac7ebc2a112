"""What each gRPC status means for a follower: try again, get a new token, or end with a sentence."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from eventstore.contracts import Contract
from eventstore.errors import NoSuchService, TokenRefused, UpstreamError, UpstreamRefused, UpstreamUnavailable
from eventstore.ingest.address import Address
from eventstore.redact import redact

MEANING: dict[grpc.StatusCode, type[UpstreamError]] = {
    grpc.StatusCode.OK: UpstreamUnavailable,  # never raised by a stream; complete all the same
    grpc.StatusCode.UNAUTHENTICATED: TokenRefused,
    grpc.StatusCode.PERMISSION_DENIED: UpstreamRefused,
    grpc.StatusCode.NOT_FOUND: UpstreamRefused,
    grpc.StatusCode.INVALID_ARGUMENT: UpstreamRefused,
    grpc.StatusCode.UNIMPLEMENTED: NoSuchService,
    grpc.StatusCode.CANCELLED: UpstreamUnavailable,
    grpc.StatusCode.UNKNOWN: UpstreamUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: UpstreamUnavailable,
    grpc.StatusCode.ALREADY_EXISTS: UpstreamUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: UpstreamUnavailable,
    grpc.StatusCode.FAILED_PRECONDITION: UpstreamUnavailable,
    grpc.StatusCode.ABORTED: UpstreamUnavailable,
    grpc.StatusCode.OUT_OF_RANGE: UpstreamUnavailable,
    grpc.StatusCode.INTERNAL: UpstreamUnavailable,
    grpc.StatusCode.UNAVAILABLE: UpstreamUnavailable,
    grpc.StatusCode.DATA_LOSS: UpstreamUnavailable,
}

_MAX_DETAILS = 300


def upstream_error(
    status: grpc.StatusCode,
    details: str | None,
    trailing: Iterable[tuple[str, str | bytes]],
    *,
    address: Address,
    contract: Contract,
) -> UpstreamError:
    """Return the error that a stream's end means, with the server's words redacted and cut to one line."""
    words = redact(" ".join((details or "").split()))[:_MAX_DETAILS]
    said = f"{status.name}: {words}" if words else status.name
    kind = MEANING[status]
    if kind is NoSuchService:
        message = f"no such service under {address.url}, check the path ({contract}: {said})"
    elif kind is TokenRefused:
        message = f"{address.url} refuses the token: {said}"
    elif kind is UpstreamRefused:
        message = f"{address.url} refuses the stream: {said}"
    else:
        message = f"{address.url} can't serve the stream now: {said}"
    return kind(message, status=status.name, retry_after=retry_after(trailing))


def retry_after(trailing: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return the seconds that trailing metadata asks us to wait; None when it asks for none that can be read."""
    asked = {key.lower(): value for key, value in trailing}
    for key, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = asked.get(key)
        if value is None:
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        try:
            seconds = float(text) / scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None
