"""First contact: the made-up event_id that is sent for an app of which nothing is stored."""

from __future__ import annotations

from datetime import datetime, timedelta

from eventstore import ulid
from eventstore.contracts import Contract
from eventstore.ingest.recent_events import CLOCK_ERROR

REPLAY_WINDOW = timedelta(days=7) - timedelta(hours=1)
"""How far back first contact goes under ``pcs.external.v1``: the contract's replay window, less a margin."""
RETRY_WINDOW = timedelta(days=7) - CLOCK_ERROR
"""How far back the second first contact goes, if the upstream refused the first: this clock may be behind."""


def first_contact(contract: Contract, since: str | None, now: datetime) -> str | None:
    """Return the event_id for a stream of which nothing is stored: ``since``, but inside the replay window.

    ``chat.external`` states no replay window; without ``since`` its streams start with all events (None).
    """
    if contract is Contract.CHAT_EXTERNAL:
        return since
    return max(since or "", ulid.first_ulid_at(now - REPLAY_WINDOW))


def second_first_contact(refused: str | None, replayed_gap: str | None, now: datetime) -> str | None:
    """Return the event_id to send after the upstream could not replay from the first contact's.

    By this machine's clock the first one was inside the replay window, but the clock may be wrong.

    Args:
        refused: the first contact's event_id.
        replayed_gap: the upper end of the gap that the stream would have replayed, None without one.
        now: the time.

    Returns:
        None if there is no later event_id to try.

    """
    event_id = max(ulid.first_ulid_at(now - RETRY_WINDOW), replayed_gap or "")
    return event_id if event_id > (refused or "") else None
