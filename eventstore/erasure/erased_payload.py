"""Encodes the payload of an erased person's event anew: a token for the number, and nothing else that names the person.

Invariants. What is kept is written from the fields that both contracts publish, so unknown fields are gone, also those
inside a time or an answer. Decoding the new payload gives the columns of the old one, but for the number and the
message_id: this is checked for every event, and an event for which it doesn't hold is not changed. The same event and
token always give the same bytes.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from eventstore.contracts import Contract, Event, decode
from eventstore.contracts._generated.eventstore import erased_event_pb2 as erased
from eventstore.contracts.times import without_other_fields
from eventstore.errors import Undecodable

# No message can begin like this, so an answer that couldn't be read before can't be read afterwards either.
_UNREADABLE = b"\0"


def erase_event(event: Event, token: str) -> Event:
    """Return an event that names a token instead of its recipient.

    Args:
        event: an event with a recipient, as it was decoded from its payload.
        token: the token of the recipient.

    Raises:
        Undecodable: the payload can't be encoded anew so that everything else stays.

    """
    payload = encode_without_person(event.payload, token)
    found = decode(payload, event.app, Contract(event.contract))
    if found != event._replace(ppnum=token, message_id=None, payload=payload):
        raise Undecodable("its payload can't be encoded anew without a change of another column", event.event_id)
    return found


def encode_without_person(payload: bytes, token: str) -> bytes:
    """Return the bytes of an event with the token as its recipient's number.

    Raises:
        Undecodable: the bytes are not an event with a recipient.

    """
    try:
        message = erased.ErasedEvent.FromString(payload)
    except DecodeError:
        raise Undecodable("the bytes are not a SendRequestEvent") from None
    if not message.HasField("recipient"):
        raise Undecodable("the event has no recipient", message.event_id)
    message.DiscardUnknownFields()
    message.recipient.ppnum = token
    message.recipient.created_at = without_other_fields(message.recipient.created_at)
    message.occurred_at = without_other_fields(message.occurred_at)
    if message.HasField("summary"):
        message.summary.created_at = without_other_fields(message.summary.created_at)
        message.summary.completed_at = without_other_fields(message.summary.completed_at)
    if message.HasField("poll_response"):
        message.poll_response = _answer_alone(message.poll_response)
    return message.SerializeToString(deterministic=True)


def _answer_alone(raw: bytes) -> bytes:
    try:
        answer = erased.PollResponse.FromString(raw)
    except DecodeError:
        return _UNREADABLE
    answer.DiscardUnknownFields()
    return answer.SerializeToString(deterministic=True)
