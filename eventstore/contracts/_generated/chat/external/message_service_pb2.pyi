from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SendRequestEventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNSPECIFIED: _ClassVar[SendRequestEventType]
    RECIPIENT_DELIVERED: _ClassVar[SendRequestEventType]
    RECIPIENT_FAILED: _ClassVar[SendRequestEventType]
    RECIPIENT_PENDING_CONSENT: _ClassVar[SendRequestEventType]
    CONSENT_GRANTED: _ClassVar[SendRequestEventType]
    CONSENT_DENIED: _ClassVar[SendRequestEventType]
    REQUEST_COMPLETED: _ClassVar[SendRequestEventType]
    POLL_RESPONSE_RECEIVED: _ClassVar[SendRequestEventType]
UNSPECIFIED: SendRequestEventType
RECIPIENT_DELIVERED: SendRequestEventType
RECIPIENT_FAILED: SendRequestEventType
RECIPIENT_PENDING_CONSENT: SendRequestEventType
CONSENT_GRANTED: SendRequestEventType
CONSENT_DENIED: SendRequestEventType
REQUEST_COMPLETED: SendRequestEventType
POLL_RESPONSE_RECEIVED: SendRequestEventType

class StreamSendRequestEventsReq(_message.Message):
    __slots__ = ("send_request_id", "after_event_id")
    SEND_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    send_request_id: str
    after_event_id: str
    def __init__(self, send_request_id: _Optional[str] = ..., after_event_id: _Optional[str] = ...) -> None: ...

class SendRequestEvent(_message.Message):
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
    event_type: SendRequestEventType
    recipient: RecipientStatus
    summary: SendRequestSummary
    occurred_at: str
    poll_response: PollResponse
    def __init__(self, event_id: _Optional[str] = ..., send_request_id: _Optional[str] = ..., event_type: _Optional[_Union[SendRequestEventType, str]] = ..., recipient: _Optional[_Union[RecipientStatus, _Mapping]] = ..., summary: _Optional[_Union[SendRequestSummary, _Mapping]] = ..., occurred_at: _Optional[str] = ..., poll_response: _Optional[_Union[PollResponse, _Mapping]] = ...) -> None: ...

class RecipientStatus(_message.Message):
    __slots__ = ("id", "ppnum", "status", "message_id", "error_code", "created_at")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[RecipientStatus.Status]
        PENDING: _ClassVar[RecipientStatus.Status]
        DELIVERED: _ClassVar[RecipientStatus.Status]
        PENDING_CONSENT: _ClassVar[RecipientStatus.Status]
        FAILED: _ClassVar[RecipientStatus.Status]
    STATUS_UNSPECIFIED: RecipientStatus.Status
    PENDING: RecipientStatus.Status
    DELIVERED: RecipientStatus.Status
    PENDING_CONSENT: RecipientStatus.Status
    FAILED: RecipientStatus.Status
    ID_FIELD_NUMBER: _ClassVar[int]
    PPNUM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    ppnum: str
    status: RecipientStatus.Status
    message_id: str
    error_code: str
    created_at: str
    def __init__(self, id: _Optional[str] = ..., ppnum: _Optional[str] = ..., status: _Optional[_Union[RecipientStatus.Status, str]] = ..., message_id: _Optional[str] = ..., error_code: _Optional[str] = ..., created_at: _Optional[str] = ...) -> None: ...

class SendRequestSummary(_message.Message):
    __slots__ = ("id", "status", "total_recipients", "delivered", "pending_consent", "failed", "created_at", "completed_at")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[SendRequestSummary.Status]
        QUEUED: _ClassVar[SendRequestSummary.Status]
        PROCESSING: _ClassVar[SendRequestSummary.Status]
        COMPLETED: _ClassVar[SendRequestSummary.Status]
        FAILED: _ClassVar[SendRequestSummary.Status]
    STATUS_UNSPECIFIED: SendRequestSummary.Status
    QUEUED: SendRequestSummary.Status
    PROCESSING: SendRequestSummary.Status
    COMPLETED: SendRequestSummary.Status
    FAILED: SendRequestSummary.Status
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    PENDING_CONSENT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: SendRequestSummary.Status
    total_recipients: int
    delivered: int
    pending_consent: int
    failed: int
    created_at: str
    completed_at: str
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[SendRequestSummary.Status, str]] = ..., total_recipients: _Optional[int] = ..., delivered: _Optional[int] = ..., pending_consent: _Optional[int] = ..., failed: _Optional[int] = ..., created_at: _Optional[str] = ..., completed_at: _Optional[str] = ...) -> None: ...

class PollResponse(_message.Message):
    __slots__ = ("poll_id", "selected_options")
    POLL_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTED_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    poll_id: str
    selected_options: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, poll_id: _Optional[str] = ..., selected_options: _Optional[_Iterable[str]] = ...) -> None: ...
