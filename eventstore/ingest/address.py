"""An upstream's address: a URL whose path, if any, comes before the method's path."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from eventstore.contracts import Contract
from eventstore.errors import UsageError


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream listens.

    ``url`` is the address as it was given (OAuth's ``resource``, byte for byte); ``target`` is host and port for gRPC;
    ``prefix`` comes before the method's path; ``secure`` says whether TLS is spoken.
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
            UsageError: it isn't one, or it would send a token in the clear.

        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UsageError("the address is not a URL: write it as https://HOST[:PORT][/PATH]") from None
        # A URL has no white space; urlsplit drops some and keeps some.
        if parts.scheme not in {"http", "https"} or not host or port == 0 or any(map(str.isspace, url)):
            raise UsageError("the address is not a URL: write it as https://HOST[:PORT][/PATH]")
        if parts.username is not None or parts.password is not None:
            raise UsageError("the address holds a user name or password: give credentials in their own settings")
        if parts.query or parts.fragment:
            raise UsageError("the address has a query or a fragment: write it as https://HOST[:PORT][/PATH]")
        secure = parts.scheme == "https"
        loopback = is_loopback(host)
        if not secure and not loopback:
            raise UsageError(
                f"http://{host} would send the token in the clear: use https:// (http:// is for loopback only)"
            )
        name = f"[{host}]" if ":" in host else host
        return cls(url, f"{name}:{port or (443 if secure else 80)}", parts.path.rstrip("/"), secure, loopback)

    def method(self, contract: Contract) -> str:
        """Return the path of the contract's streaming method at this address."""
        return f"{self.prefix}{contract.method}"


def is_loopback(host: str) -> bool:
    """Tell whether a host name means this machine, without asking a name server."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
