"""The gRPC channel to an upstream: TLS, keep-alive and limits, the same for streams and single calls."""

from __future__ import annotations

import grpc
import grpc.aio

from eventstore.ingest.address import Address
from eventstore.ingest.upstream import Tls
from eventstore.waits import Waits

MAX_MESSAGE_BYTES = 64 * 2**20


def open_channel(address: Address, tls: Tls, waits: Waits) -> grpc.aio.Channel:
    """Return a channel to an upstream, with a connection of its own; it connects at its first call."""
    options: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each call: the back-off is ours
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0 if address.loopback else 1),
        # Servers answer more frequent pings with GOAWAY. Any number of pings may be sent without data in between.
        ("grpc.keepalive_time_ms", int(waits.ping * 1000)),
        ("grpc.keepalive_timeout_ms", int(waits.ping_timeout * 1000)),
        # The transport's own timeout is one minute, and the longer of the two applies.
        ("grpc.http2.ping_timeout_ms", int(waits.ping_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_reconnect_backoff_ms", int(waits.dial * 1000)),
        ("grpc.min_reconnect_backoff_ms", int(waits.dial * 1000)),
    ]
    if not address.secure:
        return grpc.aio.insecure_channel(address.target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.aio.secure_channel(address.target, credentials, options=options)
