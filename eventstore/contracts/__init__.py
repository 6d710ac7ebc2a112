"""The two published contracts of the RPC: their names, their framing, and how an event is decoded."""

from eventstore.contracts.contract import Contract
from eventstore.contracts.decode import Event, decode
from eventstore.contracts.framing import Frame, FrameKind, encode_request, read_frame

__all__ = ["Contract", "Event", "Frame", "FrameKind", "decode", "encode_request", "read_frame"]
