"""The two published forms of the RPC: their names, their frames, and how an event's columns are read off it."""

from eventstore.contracts.contract import Contract, Frame, FrameKind, encode_request, read_frame
from eventstore.contracts.decode import Event, decode

__all__ = ["Contract", "Event", "Frame", "FrameKind", "decode", "encode_request", "read_frame"]
