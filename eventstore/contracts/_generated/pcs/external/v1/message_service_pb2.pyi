import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SendRequestEventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEND_REQUEST_EVENT_TYPE_UNSPECIFIED: _ClassVar[SendRequestEventType]
    SEND_REQUEST_EVENT_TYPE_RECIPIENT_DELIVERED: _ClassVar[SendRequestEventType]
    SEND_REQUEST_EVENT_TYPE_RECIPIENT_FAILED: _ClassVar[SendRequestEventType]
    SEND_REQUEST_EVENT_TYPE_RECIPIENT_PENDING_CONSENT: _ClassVar[SendRequestEventType]
    SEND_REQUEST_EVENT_TYPE_REQUEST_COMPLETED: _ClassVar[SendRequestEventType]
    SEND_REQUEST_EVENT_TYPE_REQUEST_FAILED: _ClassVar[SendRequestEventType]
SEND_REQUEST_EVENT_TYPE_UNSPECIFIED: SendRequestEventType
SEND_REQUEST_EVENT_TYPE_RECIPIENT_DELIVERED: SendRequestEventType
SEND_REQUEST_EVENT_TYPE_RECIPIENT_FAILED: SendRequestEventType
SEND_REQUEST_EVENT_TYPE_RECIPIENT_PENDING_CONSENT: SendRequestEventType
SEND_REQUEST_EVENT_TYPE_REQUEST_COMPLETED: SendRequestEventType
SEND_REQUEST_EVENT_TYPE_REQUEST_FAILED: SendRequestEventType

class StreamSendRequestEventsRequest(_message.Message):
    __slots__ = ("send_request_id", "after_event_id")
    SEND_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    send_request_id: str
    after_event_id: str
    def __init__(self, send_request_id: _Optional[str] = ..., after_event_id: _Optional[str] = ...) -> None: ...

class SendRequestEventFrame(_message.Message):
    __slots__ = ("event", "keep_alive", "cursor_expired")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_EXPIRED_FIELD_NUMBER: _ClassVar[int]
    event: SendRequestEvent
    keep_alive: KeepAlive
    cursor_expired: CursorExpired
    def __init__(self, event: _Optional[_Union[SendRequestEvent, _Mapping]] = ..., keep_alive: _Optional[_Union[KeepAlive, _Mapping]] = ..., cursor_expired: _Optional[_Union[CursorExpired, _Mapping]] = ...) -> None: ...

class KeepAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CursorExpired(_message.Message):
    __slots__ = ("detail",)
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    detail: str
    def __init__(self, detail: _Optional[str] = ...) -> None: ...

class SendRequestEvent(_message.Message):
    __slots__ = ("event_id", "send_request_id", "event_type", "recipient", "summary", "occurred_at")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEND_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    send_request_id: str
    event_type: SendRequestEventType
    recipient: RecipientStatus
    summary: SendRequestSummary
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, event_id: _Optional[str] = ..., send_request_id: _Optional[str] = ..., event_type: _Optional[_Union[SendRequestEventType, str]] = ..., recipient: _Optional[_Union[RecipientStatus, _Mapping]] = ..., summary: _Optional[_Union[SendRequestSummary, _Mapping]] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

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
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., ppnum: _Optional[str] = ..., status: _Optional[_Union[RecipientStatus.Status, str]] = ..., message_id: _Optional[str] = ..., error_code: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

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
    created_at: _timestamp_pb2.Timestamp
    completed_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[SendRequestSummary.Status, str]] = ..., total_recipients: _Optional[int] = ..., delivered: _Optional[int] = ..., pending_consent: _Optional[int] = ..., failed: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., completed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetSendRequestStatusRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetSendRequestStatusResponse(_message.Message):
    __slots__ = ("request", "recipients")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    request: SendRequestSummary
    recipients: _containers.RepeatedCompositeFieldContainer[RecipientStatus]
    def __init__(self, request: _Optional[_Union[SendRequestSummary, _Mapping]] = ..., recipients: _Optional[_Iterable[_Union[RecipientStatus, _Mapping]]] = ...) -> None: ...
