"""What an app follows: the upstream's address, tokens, contract and TLS files."""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.contracts import Contract
from eventstore.ingest.address import Address
from eventstore.ingest.credentials import TokenSource


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes for TLS; None means the default: gRPC's own root certificates, and no client certificate."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None


NO_TLS = Tls()
"""All defaults."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What an app follows.

    Attributes:
        app: the app.
        address: where the upstream listens.
        tokens: where bearer tokens come from.
        contract: None to find out.
        since: the first contact's event_id, made up from the ``since`` setting; None for the contract's default.
        tls: certificates and key.

    """

    app: str
    address: Address
    tokens: TokenSource
    contract: Contract | None = None
    since: str | None = None
    tls: Tls = NO_TLS
