"""``poll_tallies`` answers how a poll ended: the latest answer of each respondent, and the tally of them.

The documented contract names the event but no fields for the answer; where an answer can't be read, the response still
counts, under no option (''). Under ``pcs.external.v1`` no poll events come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sqlalchemy import (
    Column,
    Executable,
    Index,
    Table,
    Text,
    any_,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, array, distinct_on, insert

from projections.projection import Projection, Window
from projections.read_models.event_types import EventType
from projections.read_models.tables import count, event_id, key, metadata, time

poll_responses = Table(
    "poll_responses",
    metadata,
    key("app", "Whose poll it is."),
    key("send_request_id", "The request that carried the poll."),
    key("poll_id", "The poll; '' when not stated."),
    key("ppnum", "The respondent's phone number."),
    Column("options", ARRAY(Text), nullable=False, comment="The options chosen, as answered; empty when not stated."),
    event_id("event_id", "The respondent's latest answer.", nullable=False),
    time("responded_at", "When that was.", nullable=False),
    Index("poll_responses_ppnum_idx", "ppnum"),
    comment="The latest answer of each respondent to each poll.",
)

poll_tallies = Table(
    "poll_tallies",
    metadata,
    key("app", "Whose poll it is."),
    key("send_request_id", "The request that carried the poll."),
    key("poll_id", "The poll; '' when not stated."),
    key("option", "The option; '' when not stated."),
    count("responses", "Respondents whose latest answer names it."),
    time("last_response_at", "When the last of these answered.", nullable=False),
    comment="How many respondents chose each option of each poll; options that nobody chooses now have no row.",
)

_PARTITION = ("app", "send_request_id")
_POLL = (*_PARTITION, "poll_id")


class PollTallies(Projection):
    """Folds poll answers."""

    name: ClassVar[str] = "poll_tallies"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({EventType.POLL_RESPONSE_RECEIVED})
    tables: ClassVar[tuple[Table, ...]] = (poll_responses, poll_tallies)
    partition_by: ClassVar[tuple[str, ...]] = _PARTITION
    decided_by: ClassVar[Mapping[str, str]] = {"poll_responses": "event_id"}

    def fold(self, window: Window) -> Sequence[Executable]:
        """Answers first, then the tallies of the polls touched: what nobody chooses any more goes, the rest is set."""
        return _responses(window), _deserted(window), _tallies(window)


def _responses(window: Window) -> Executable:
    e = window.events
    poll_id = func.coalesce(e.c.poll_id, "").label("poll_id")
    latest = (
        select(
            e.c.app,
            e.c.send_request_id,
            poll_id,
            e.c.ppnum,
            func.coalesce(e.c.poll_options, cast(array([]), ARRAY(Text))),
            e.c.event_id,
            e.c.occurred_at,
        )
        .ext(distinct_on(e.c.app, e.c.send_request_id, poll_id, e.c.ppnum))
        .where(e.c.send_request_id != "", e.c.ppnum != "")
        .order_by(e.c.app, e.c.send_request_id, poll_id, e.c.ppnum, e.c.event_id.desc())
    )
    new = insert(poll_responses).from_select([column.name for column in poll_responses.c], latest)
    return new.on_conflict_do_update(
        index_elements=[*_POLL, "ppnum"],
        set_={name: new.excluded[name] for name in ("options", "event_id", "responded_at")},
        where=poll_responses.c.event_id < new.excluded.event_id,
    )


def _deserted(window: Window) -> Executable:
    t, r = poll_tallies.c, poll_responses.c
    # Not NOT EXISTS: as a join, it is planned to read all of poll_responses while that is known to be empty, and the
    # plan is kept when it no longer is.
    chosen = (
        select(literal(1))
        .where(
            *(r[name] == t[name] for name in _POLL),
            or_(t.option == any_(r.options), (t.option == "") & (func.cardinality(r.options) == 0)),
        )
        .correlate(poll_tallies)
        .limit(1)
        .scalar_subquery()
    )
    return delete(poll_tallies).where(window.touched(poll_tallies, _PARTITION), chosen.is_(None))


def _tallies(window: Window) -> Executable:
    r = poll_responses.c
    stated = case((func.cardinality(r.options) == 0, cast(array([""]), ARRAY(Text))), else_=r.options)
    named = func.unnest(stated).table_valued("option", with_ordinality="place", name="named").render_derived()
    # An option named twice in one answer counts once: where it stands first. That takes no sorting, as DISTINCT would.
    tally = (
        select(*(r[name] for name in _POLL), named.c.option, func.count(), func.max(r.responded_at))
        .select_from(poll_responses.join(named, true()))
        .where(window.touched(poll_responses, _PARTITION), func.array_position(stated, named.c.option) == named.c.place)
        .group_by(*(r[name] for name in _POLL), named.c.option)
    )
    new = insert(poll_tallies).from_select([column.name for column in poll_tallies.c], tally)
    t = poll_tallies.c
    return new.on_conflict_do_update(
        index_elements=[*_POLL, "option"],
        set_={name: new.excluded[name] for name in ("responses", "last_response_at")},
        where=or_(t.responses != new.excluded.responses, t.last_response_at != new.excluded.last_response_at),
    )
