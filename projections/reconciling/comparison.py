"""Compares what the upstream says about a request with the rows of ``request_status`` and ``request_recipients``.

The verdicts. ``equal``: nothing differs. ``behind``: the upstream knows more; everything that is here may come before
what it says. ``differs``: both contradict each other. A recipient that is pending upstream has no row here.

The upstream still names persons who were erased here. Which of its recipients they are is not known any more, only that
they are among those whose numbers have no row: so these are paired with the tokens, equal statuses first, and none of
their numbers is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from eventstore.contracts.status_answer import UNKNOWN, UpstreamRequest
from eventstore.erasure.erasure_token import is_token
from eventstore.postgres.queries import fetch_all, fetch_row
from eventstore.postgres.session_settings import ONE_SNAPSHOT

_REQUEST = """
SELECT state, recipients, delivered, failed, pending_consent
FROM public.request_status WHERE app = %s AND send_request_id = %s
"""
_RECIPIENTS = "SELECT ppnum, status FROM public.request_recipients WHERE app = %s AND send_request_id = %s"

_UNDECIDED = ("queued", "processing")


class ReconcileVerdict(StrEnum):
    """What a comparison found."""

    EQUAL = "equal"
    BEHIND = "behind"
    DIFFERS = "differs"
    UNKNOWN_UPSTREAM = "unknown_upstream"
    NOT_ASKED = "not_asked"


_EQUAL, _BEHIND, _DIFFERS = ReconcileVerdict.EQUAL, ReconcileVerdict.BEHIND, ReconcileVerdict.DIFFERS


@dataclass(frozen=True, slots=True)
class OurRequest:
    """A request as the read models have it; ``statuses`` has the status of each recipient by phone number."""

    state: str
    recipients: int
    delivered: int
    failed: int
    pending_consent: int
    statuses: dict[str, str] = field(default_factory=dict, repr=False)


class RecipientDifference(NamedTuple):
    """A recipient whose status differs; None where one side has none.

    ``ppnum`` is None if the number may be that of an erased person.
    """

    ppnum: str | None
    upstream: str | None
    ours: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict, and the recipients that differ."""

    verdict: ReconcileVerdict
    recipients: tuple[RecipientDifference, ...] = field(default=(), repr=False)


async def read_our_request(conn: AsyncConnection[Any], app: str, send_request_id: str) -> OurRequest | None:
    """Return a request as the read models have it now; None if they have none."""
    async with conn.transaction():
        await conn.execute(ONE_SNAPSHOT)
        row = await fetch_row(conn, _REQUEST, [app, send_request_id])
        statuses = dict(await fetch_all(conn, _RECIPIENTS, [app, send_request_id]))
    if row is None:
        return None
    state, recipients, delivered, failed, pending_consent = row
    return OurRequest(state, recipients, delivered, failed, pending_consent, statuses)


def compare_request(upstream: UpstreamRequest, ours: OurRequest) -> Comparison:
    """Compare both sides."""
    found: list[RecipientDifference] = []
    verdicts = {_compare_states(upstream.state, ours.state)}
    if upstream.recipients:
        for ppnum, theirs, our in _pair_recipients(upstream.recipients, ours.statuses):
            verdict = _compare_recipient(theirs, our)
            verdicts.add(verdict)
            if verdict is not _EQUAL:
                found.append(RecipientDifference(ppnum, theirs, our))
    else:
        verdicts.add(_compare_counts(upstream, ours))
    return Comparison(_worst(verdicts), tuple(found))


def _pair_recipients(theirs: Mapping[str, str], ours: Mapping[str, str]) -> Iterator[RecipientDifference]:
    """Yield each recipient with its status on both sides."""
    tokens = sorted(filter(is_token, ours))
    for ppnum in sorted((theirs.keys() | ours.keys()) if not tokens else ours.keys() - set(tokens)):
        yield RecipientDifference(ppnum, theirs.get(ppnum), ours.get(ppnum))
    if not tokens:
        return
    unnamed = sorted(status for ppnum, status in theirs.items() if ppnum not in ours)
    unpaired = []
    for token in tokens:
        if ours[token] in unnamed:
            unnamed.remove(ours[token])
            yield RecipientDifference(token, ours[token], ours[token])
        else:
            unpaired.append(token)
    for token, status in zip_longest(unpaired, unnamed):
        yield RecipientDifference(token, status, None if token is None else ours[token])


def _compare_states(theirs: str, ours: str) -> ReconcileVerdict:
    state = "in_progress" if theirs in _UNDECIDED else theirs
    if state in (ours, UNKNOWN):
        return _EQUAL
    return _BEHIND if ours == "in_progress" else _DIFFERS


def _compare_recipient(theirs: str | None, ours: str | None) -> ReconcileVerdict:
    if theirs == ours or (theirs == "pending" and ours is None):
        return _EQUAL
    knows_more = theirs in ("delivered", "failed") and ours in (None, "pending_consent")
    return _BEHIND if knows_more or (theirs == "pending_consent" and ours is None) else _DIFFERS


def _compare_counts(upstream: UpstreamRequest, ours: OurRequest) -> ReconcileVerdict:
    """Compare the summary's counts, for an upstream that lists no recipients."""
    theirs = (upstream.delivered, upstream.failed, upstream.pending_consent)
    our = (ours.delivered, ours.failed, ours.pending_consent)
    if theirs == our:
        return _EQUAL
    is_possible = upstream.delivered >= ours.delivered and upstream.failed >= ours.failed and sum(theirs) >= sum(our)
    return _BEHIND if is_possible else _DIFFERS


def _worst(verdicts: set[ReconcileVerdict]) -> ReconcileVerdict:
    return next(each for each in (_DIFFERS, _BEHIND, _EQUAL) if each in verdicts)
