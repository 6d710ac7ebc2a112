from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Record(_message.Message):
    __slots__ = ("header", "event", "quarantined", "end", "erasure", "erased_event")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    ERASED_EVENT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    event: StoredEvent
    quarantined: Quarantined
    end: End
    erasure: Erasure
    erased_event: ErasedEvent
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., event: _Optional[_Union[StoredEvent, _Mapping]] = ..., quarantined: _Optional[_Union[Quarantined, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., erasure: _Optional[_Union[Erasure, _Mapping]] = ..., erased_event: _Optional[_Union[ErasedEvent, _Mapping]] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("version", "cursors", "head", "erasures", "newest_erasure")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ERASURES_FIELD_NUMBER: _ClassVar[int]
    NEWEST_ERASURE_FIELD_NUMBER: _ClassVar[int]
    version: int
    cursors: _containers.RepeatedCompositeFieldContainer[Cursor]
    head: int
    erasures: int
    newest_erasure: str
    def __init__(self, version: _Optional[int] = ..., cursors: _Optional[_Iterable[_Union[Cursor, _Mapping]]] = ..., head: _Optional[int] = ..., erasures: _Optional[int] = ..., newest_erasure: _Optional[str] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("app", "contract", "last_event_id", "last_received_at", "holes")
    APP_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    HOLES_FIELD_NUMBER: _ClassVar[int]
    app: str
    contract: str
    last_event_id: str
    last_received_at: int
    holes: str
    def __init__(self, app: _Optional[str] = ..., contract: _Optional[str] = ..., last_event_id: _Optional[str] = ..., last_received_at: _Optional[int] = ..., holes: _Optional[str] = ...) -> None: ...

class StoredEvent(_message.Message):
    __slots__ = ("position", "app", "contract", "received_at", "occurred_at", "payload")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    position: int
    app: str
    contract: str
    received_at: int
    occurred_at: int
    payload: bytes
    def __init__(self, position: _Optional[int] = ..., app: _Optional[str] = ..., contract: _Optional[str] = ..., received_at: _Optional[int] = ..., occurred_at: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Quarantined(_message.Message):
    __slots__ = ("app", "contract", "event_id", "reason", "payload", "first_seen", "last_seen", "count", "erased_at", "digest")
    APP_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    app: str
    contract: str
    event_id: str
    reason: str
    payload: bytes
    first_seen: int
    last_seen: int
    count: int
    erased_at: int
    digest: bytes
    def __init__(self, app: _Optional[str] = ..., contract: _Optional[str] = ..., event_id: _Optional[str] = ..., reason: _Optional[str] = ..., payload: _Optional[bytes] = ..., first_seen: _Optional[int] = ..., last_seen: _Optional[int] = ..., count: _Optional[int] = ..., erased_at: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Erasure(_message.Message):
    __slots__ = ("token", "app", "erased_at", "why", "erased_by", "position", "mac", "key_check", "rows")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ERASED_BY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    KEY_CHECK_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    token: str
    app: str
    erased_at: int
    why: str
    erased_by: str
    position: int
    mac: bytes
    key_check: bytes
    rows: str
    def __init__(self, token: _Optional[str] = ..., app: _Optional[str] = ..., erased_at: _Optional[int] = ..., why: _Optional[str] = ..., erased_by: _Optional[str] = ..., position: _Optional[int] = ..., mac: _Optional[bytes] = ..., key_check: _Optional[bytes] = ..., rows: _Optional[str] = ...) -> None: ...

class ErasedEvent(_message.Message):
    __slots__ = ("event_id", "token")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    token: str
    def __init__(self, event_id: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("events", "sha256")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    events: int
    sha256: bytes
    def __init__(self, events: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
