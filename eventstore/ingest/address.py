"""An upstream's address: a URL whose path, if it has one, is put before the gRPC method's path."""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.credential_rules import check_url, is_loopback, not_a_url


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream listens.

    Attributes:
        url: the address exactly as configured; it is OAuth's ``resource``.
        target: host and port, for gRPC.
        prefix: what is put before the method's path.
        secure: whether to use TLS.
        loopback: whether it is this machine.

    """

    url: str
    target: str
    prefix: str
    secure: bool
    loopback: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an address.

        Raises:
            UsageError: it is not an address, or the token would be sent unencrypted over a network.

        """
        parts = check_url(url, "the address")
        host = parts.hostname or ""
        try:
            port = parts.port
        except ValueError:
            raise not_a_url("the address") from None
        # urlsplit accepts white space: it drops some and keeps some.
        if port == 0 or any(map(str.isspace, url)):
            raise not_a_url("the address")
        if parts.query or parts.fragment:
            raise UsageError("the address has a query or a fragment: write it as https://HOST[:PORT][/PATH]")
        secure = parts.scheme == "https"
        name = f"[{host}]" if ":" in host else host
        return cls(url, f"{name}:{port or (443 if secure else 80)}", parts.path.rstrip("/"), secure, is_loopback(host))

    def method(self, contract: Contract) -> str:
        """Return the path of the contract's streaming method at this address."""
        return f"{self.prefix}{contract.method}"

    def status_method(self, contract: Contract) -> str:
        """Return the path of the contract's ``GetSendRequestStatus`` at this address."""
        return f"{self.prefix}{contract.status_method}"
