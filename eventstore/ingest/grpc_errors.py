"""What each gRPC status means for a follower: try again, get a new token, or end with a sentence.

A status is the platform's own when it came as ``grpc-status``. When an answer has none, gRPC's client makes one up: of
an HTTP status (401 becomes UNAUTHENTICATED, 403 PERMISSION_DENIED, 404 UNIMPLEMENTED), which proxies send, or of an
HTTP/2 error code (INADEQUATE_SECURITY becomes PERMISSION_DENIED). Its Python API does not show whether there was a
``grpc-status``; only the details tell, in which the client says what it saw. A test asks the client itself, so that a
version with other words is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc

from eventstore.contracts import Contract
from eventstore.errors import NoSuchService, TokenRefused, UpstreamError, UpstreamRefused, UpstreamUnavailable
from eventstore.ingest.address import Address
from eventstore.redaction.redact import quoted

ERROR_BY_STATUS: dict[grpc.StatusCode, type[UpstreamError]] = {
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
_MAX_READ = 10_000
_HTTP_STATUS = re.compile(r"Received http2 header with status: (\d{3})")
_CONNECTION_ERROR = re.compile(r"Stream removed \(")


def upstream_error(
    status: grpc.StatusCode,
    details: str | None,
    trailing: Iterable[tuple[str, str | bytes]],
    *,
    address: Address,
    contract: Contract,
) -> UpstreamError:
    """Return the error that a stream's end means, with the server's words redacted and cut to one line."""
    text = (details or "")[:_MAX_READ]
    words = quoted(details or "", _MAX_DETAILS)
    said = f"{status.name}: {words}" if words else status.name
    kind = ERROR_BY_STATUS[status]
    http = _HTTP_STATUS.fullmatch(text)
    if _CONNECTION_ERROR.match(text):
        kind = UpstreamUnavailable
    if http:
        check = ", check the path" if kind is NoSuchService else ""
        message = f"{address.url} answered HTTP {http[1]} without a gRPC status, as proxies do{check} ({contract})"
    elif kind is NoSuchService:
        message = f"no such service under {address.url}, check the path ({contract}: {said})"
    elif kind is TokenRefused:
        message = f"{address.url} refuses the token: {said}"
    elif kind is UpstreamRefused:
        message = f"{address.url} refuses the stream: {said}"
    else:
        message = f"{address.url} can't serve the stream now: {said}"
    return kind(message, status=status.name, retry_after=retry_after(trailing), by_platform=http is None)


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
