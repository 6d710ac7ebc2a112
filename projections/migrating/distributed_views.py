"""The views of the event store as a distributed log needs them: its head is a row, and '' stands for no request.

Invariants. Every other view is the same in both cases. Whoever creates one of our views in a database whose log may be
distributed, such as a repair or a later revision, asks here.
"""

from __future__ import annotations

_HEAD = "eventstore.head"
VIEWS_OF_EVENTS = (_HEAD, "public.event_log", "eventstore.event_log")
"""The views that differ, in the order in which they are created."""

_HEAD_VIEW = (
    "CREATE OR REPLACE VIEW eventstore.head AS"
    " SELECT position, received_at, event_id FROM eventstore.distributed_head WHERE position > 0"
)
_REQUEST = "\n       send_request_id, ppnum"
_REQUEST_OR_NULL = "\n       nullif(send_request_id, '') AS send_request_id, ppnum"


def for_distributed_log(view: str, statement: str) -> str:
    """Return the statement that creates a view where the log is distributed, given that for one server.

    Raises:
        ValueError: the statement of a view of events has no request where it is expected.

    """
    if view == _HEAD:
        return _HEAD_VIEW
    if view not in VIEWS_OF_EVENTS:
        return statement
    if _REQUEST not in statement:
        raise ValueError(f"the request isn't found in the statement of view {view}")
    return statement.replace(_REQUEST, _REQUEST_OR_NULL)
