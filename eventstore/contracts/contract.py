"""The two published contracts of the RPC: their names, and the path of the streaming method."""

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


_METHODS = {
    Contract.CHAT_EXTERNAL: "/chat.external.ExternalMessageService/StreamSendRequestEvents",
    Contract.PCS_EXTERNAL_V1: "/pcs.external.v1.MessageService/StreamSendRequestEvents",
}
