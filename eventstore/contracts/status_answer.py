"""Encodes the request of ``GetSendRequestStatus`` and reads its answer; both contracts would use the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from eventstore.contracts._generated.eventstore.request_status_pb2 import Answer
from eventstore.contracts._generated.pcs.external.v1.message_service_pb2 import GetSendRequestStatusRequest

UNKNOWN = "unknown"
"""A state that is missing, or that this code doesn't know."""
_REQUEST_STATES = {1: "queued", 2: "processing", 3: "completed", 4: "failed"}
_RECIPIENT_STATES = {1: "pending", 2: "delivered", 3: "pending_consent", 4: "failed"}


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What the upstream says about a request.

    Attributes:
        state: queued, processing, completed, failed or unknown.
        total: how many recipients its summary counts; of these:
        delivered: delivered.
        failed: failed.
        pending_consent: waiting for consent.
        recipients: the status of each recipient by phone number: pending, delivered, pending_consent, failed or
            unknown.

    """

    state: str
    total: int
    delivered: int
    failed: int
    pending_consent: int
    recipients: dict[str, str] = field(default_factory=dict, repr=False)


def encode_status_request(send_request_id: str) -> bytes:
    """Return the bytes of the request."""
    return GetSendRequestStatusRequest(id=send_request_id).SerializeToString()


def read_status_answer(data: bytes) -> UpstreamRequest | None:
    """Return what an answer says; None if the bytes are not an answer.

    A recipient without a phone number is none; a number that is not UTF-8 is read with replacements.
    """
    try:
        answer = Answer.FromString(data)
    except DecodeError:
        return None
    if not answer.HasField("request"):
        return None
    summary = answer.request
    recipients = {
        each.ppnum.decode(errors="replace").replace("\0", "\ufffd"): _RECIPIENT_STATES.get(each.status, UNKNOWN)
        for each in answer.recipients
        if each.ppnum
    }
    return UpstreamRequest(
        _REQUEST_STATES.get(summary.status, UNKNOWN),
        summary.total_recipients,
        summary.delivered,
        summary.failed,
        summary.pending_consent,
        recipients,
    )
