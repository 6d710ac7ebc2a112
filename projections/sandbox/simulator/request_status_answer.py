"""Answers ``GetSendRequestStatus`` from the log: the state of a request and of its recipients."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from eventstore.contracts import Contract
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from projections.sandbox.simulator.contract_log import SimulatedEvent

_SUMMARIES = (
    pcs.SendRequestEventType.SEND_REQUEST_EVENT_TYPE_REQUEST_COMPLETED,
    pcs.SendRequestEventType.SEND_REQUEST_EVENT_TYPE_REQUEST_FAILED,
)


def answer(entries: Iterable[SimulatedEvent], send_request_id: str) -> bytes | None:
    """Return the response's bytes, or None if the log has no event of the request.

    Before the request's summary, only recipients that have an event are counted.
    """
    summary = pcs.SendRequestSummary(id=send_request_id, status=pcs.SendRequestSummary.PROCESSING)
    recipients: dict[str, pcs.RecipientStatus] = {}
    found = False
    for entry in entries:
        if entry.send_request_id != send_request_id:
            continue
        found = True
        try:
            event = pcs.SendRequestEvent.FromString(entry.payloads[Contract.PCS_EXTERNAL_V1])
        except DecodeError:
            continue  # bytes that a test put there
        if event.event_type in _SUMMARIES:
            summary = event.summary
        elif event.HasField("recipient"):
            recipients[event.recipient.ppnum] = event.recipient
    if not found:
        return None
    states = [recipient.status for recipient in recipients.values()]
    summary.total_recipients = max(summary.total_recipients, len(states))
    summary.delivered = states.count(pcs.RecipientStatus.DELIVERED)
    summary.pending_consent = states.count(pcs.RecipientStatus.PENDING_CONSENT)
    summary.failed = states.count(pcs.RecipientStatus.FAILED)
    return pcs.GetSendRequestStatusResponse(request=summary, recipients=recipients.values()).SerializeToString()
