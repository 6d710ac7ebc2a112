from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErasedEvent(_message.Message):
    __slots__ = ("event_id", "send_request_id", "event_type", "recipient", "summary", "occurred_at", "poll_response")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEND_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    POLL_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    send_request_id: str
    event_type: int
    recipient: Recipient
    summary: Summary
    occurred_at: bytes
    poll_response: bytes
    def __init__(self, event_id: _Optional[str] = ..., send_request_id: _Optional[str] = ..., event_type: _Optional[int] = ..., recipient: _Optional[_Union[Recipient, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ..., occurred_at: _Optional[bytes] = ..., poll_response: _Optional[bytes] = ...) -> None: ...

class Recipient(_message.Message):
    __slots__ = ("ppnum", "status", "error_code", "created_at")
    PPNUM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ppnum: str
    status: int
    error_code: str
    created_at: bytes
    def __init__(self, ppnum: _Optional[str] = ..., status: _Optional[int] = ..., error_code: _Optional[str] = ..., created_at: _Optional[bytes] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("id", "status", "total_recipients", "delivered", "pending_consent", "failed", "created_at", "completed_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    PENDING_CONSENT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_AT_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    status: int
    total_recipients: int
    delivered: int
    pending_consent: int
    failed: int
    created_at: bytes
    completed_at: bytes
    def __init__(self, id: _Optional[bytes] = ..., status: _Optional[int] = ..., total_recipients: _Optional[int] = ..., delivered: _Optional[int] = ..., pending_consent: _Optional[int] = ..., failed: _Optional[int] = ..., created_at: _Optional[bytes] = ..., completed_at: _Optional[bytes] = ...) -> None: ...

class PollResponse(_message.Message):
    __slots__ = ("poll_id", "selected_options")
    POLL_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTED_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    poll_id: bytes
    selected_options: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, poll_id: _Optional[bytes] = ..., selected_options: _Optional[_Iterable[bytes]] = ...) -> None: ...
