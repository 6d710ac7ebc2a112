"""What the command line says about the HTTP server: its address, and whether personal data may be shown."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from eventstore.errors import UsageError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Where the server listens, and what it may show.

    Attributes:
        host: an IP address or a name.
        port: its port; 0 lets the system choose one.
        personal_data: whether phone numbers and what was sent to them may be shown.

    """

    host: str
    port: int
    personal_data: bool = False

    @classmethod
    def parse(cls, text: str, *, personal_data: bool = False) -> Self:
        """Parse ``HOST:PORT``, ``[IPv6]:PORT``, or ``:PORT`` and ``PORT`` for this machine alone.

        Raises:
            UsageError: it is none of these.

        """
        host, separator, port = text.strip().rpartition(":")
        in_brackets = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if in_brackets else host
        is_valid = port.isascii() and port.isdigit() and int(port) < 2**16
        if not is_valid or not (separator or text) or (":" in host) is not in_brackets or (in_brackets and not host):
            raise UsageError(f"--http {text!r} is not HOST:PORT, such as 127.0.0.1:8484, [::1]:8484 or :8484")
        return cls(host or LOOPBACK, int(port), personal_data)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect, as far as the host says."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def url(self, port: int) -> str:
        """Return the URL for people, with the port that is in use."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}/"
