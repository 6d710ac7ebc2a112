"""The two published contracts of the RPC: their names, and the paths of their methods."""

from __future__ import annotations

from enum import StrEnum


class Contract(StrEnum):
    """A published contract of ``StreamSendRequestEvents``."""

    CHAT_EXTERNAL = "chat.external"
    PCS_EXTERNAL_V1 = "pcs.external.v1"

    @property
    def method(self) -> str:
        """The path of the streaming method, without an address's prefix."""
        return _METHODS[self]

    @property
    def status_method(self) -> str:
        """The path of ``GetSendRequestStatus`` in the contract's service, without an address's prefix.

        Only ``pcs.external.v1`` publishes that method; a server of ``chat.external`` may answer UNIMPLEMENTED.
        """
        service, _, _ = self.method.rpartition("/")
        return f"{service}/GetSendRequestStatus"


_METHODS = {
    Contract.CHAT_EXTERNAL: "/chat.external.ExternalMessageService/StreamSendRequestEvents",
    Contract.PCS_EXTERNAL_V1: "/pcs.external.v1.MessageService/StreamSendRequestEvents",
}
