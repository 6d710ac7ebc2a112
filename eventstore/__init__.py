"""The event store: every event that the upstream sends, unchanged and exactly once, in one Postgres table.

The names below are the public API; docs/api.md says what is stable. Everything else in this package is internal.
"""

from typing import TYPE_CHECKING

from eventstore.lazy_names import load_on_demand

__all__ = [
    "Batch",
    "CheckpointNotInLog",
    "Contract",
    "Event",
    "EventStoreError",
    "EventType",
    "EventsArchived",
    "MissingPositions",
    "NotAcknowledged",
    "StoredEvent",
    "Undecodable",
    "connect",
    "consumer",
    "decode",
    "head",
    "read",
    "wait_for",
]

if TYPE_CHECKING:
    from eventstore.consuming.batch import Batch
    from eventstore.consuming.consumer import consumer
    from eventstore.consuming.log_head import head, wait_for
    from eventstore.contracts.contract import Contract
    from eventstore.contracts.decode import Event, decode
    from eventstore.contracts.event_types import EventType
    from eventstore.errors import (
        CheckpointNotInLog,
        EventsArchived,
        EventStoreError,
        MissingPositions,
        NotAcknowledged,
        Undecodable,
    )
    from eventstore.event_reader import StoredEvent, read
    from eventstore.postgres.connection import connect
else:
    __getattr__ = load_on_demand(
        __name__,
        {
            "eventstore.consuming.batch": ("Batch",),
            "eventstore.consuming.consumer": ("consumer",),
            "eventstore.consuming.log_head": ("head", "wait_for"),
            "eventstore.contracts.contract": ("Contract",),
            "eventstore.contracts.decode": ("Event", "decode"),
            "eventstore.contracts.event_types": ("EventType",),
            "eventstore.errors": (
                "CheckpointNotInLog",
                "EventStoreError",
                "EventsArchived",
                "MissingPositions",
                "NotAcknowledged",
                "Undecodable",
            ),
            "eventstore.event_reader": ("StoredEvent", "read"),
            "eventstore.postgres.connection": ("connect",),
        },
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
