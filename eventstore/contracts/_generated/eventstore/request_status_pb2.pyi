from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Answer(_message.Message):
    __slots__ = ("request", "recipients")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    request: Summary
    recipients: _containers.RepeatedCompositeFieldContainer[Recipient]
    def __init__(self, request: _Optional[_Union[Summary, _Mapping]] = ..., recipients: _Optional[_Iterable[_Union[Recipient, _Mapping]]] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("status", "total_recipients", "delivered", "pending_consent", "failed")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    PENDING_CONSENT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    status: int
    total_recipients: int
    delivered: int
    pending_consent: int
    failed: int
    def __init__(self, status: _Optional[int] = ..., total_recipients: _Optional[int] = ..., delivered: _Optional[int] = ..., pending_consent: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class Recipient(_message.Message):
    __slots__ = ("ppnum", "status")
    PPNUM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ppnum: bytes
    status: int
    def __init__(self, ppnum: _Optional[bytes] = ..., status: _Optional[int] = ...) -> None: ...
