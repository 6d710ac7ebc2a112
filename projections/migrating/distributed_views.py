"""Our views as a distributed log needs them: its head is a row, '' stands for no request, and rights don't travel.

Invariants. Every other view is the same in both cases. Whoever creates one of our views in a database whose log may be
distributed, such as a repair or a later revision, asks here.
"""

from __future__ import annotations

_HEAD = "eventstore.head"
_FRESHNESS = "public.read_model_freshness"
VIEWS_OF_EVENTS = (_HEAD, "public.event_log", "eventstore.event_log", _FRESHNESS)
"""The views that differ, in the order in which they are created."""

_HEAD_VIEW = (
    "CREATE OR REPLACE VIEW eventstore.head AS"
    " SELECT position, received_at, event_id FROM eventstore.distributed_head WHERE position > 0"
)
_REQUEST = "\n       send_request_id, ppnum"
_REQUEST_OR_NULL = "\n       nullif(send_request_id, '') AS send_request_id, ppnum"
_NEXT_EVENTS = """LEFT JOIN (
    SELECT e.position, e.received_at FROM eventstore.events AS e
    WHERE e.position = ANY(ARRAY(SELECT position + 1 FROM projections.checkpoints))
) AS next ON next.position ="""
# Servers check the rights of whoever reads a view, but of a function's owner.
_TIMES_OF_NEXT_EVENTS = """LEFT JOIN
    eventstore.times_of_positions(ARRAY(SELECT position + 1 FROM projections.checkpoints)) AS next
    ON next.of_position ="""
LET_READERS_SEE_TIMES = "GRANT EXECUTE ON FUNCTION eventstore.times_of_positions(bigint[]) TO PUBLIC"
"""Everybody who reads the view must be able to run its function; readers may not use its schema."""


def for_distributed_log(view: str, statement: str) -> str:
    """Return the statement that creates a view where the log is distributed, given that for one server.

    Raises:
        ValueError: the statement has not what is to be replaced where it is expected.

    """
    if view == _HEAD:
        return _HEAD_VIEW
    if view not in VIEWS_OF_EVENTS:
        return statement
    old, new = (_NEXT_EVENTS, _TIMES_OF_NEXT_EVENTS) if view == _FRESHNESS else (_REQUEST, _REQUEST_OR_NULL)
    if old not in statement:
        raise ValueError(f"what differs isn't found in the statement of view {view}")
    return statement.replace(old, new)
