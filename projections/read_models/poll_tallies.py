"""``poll_tallies`` answers how a poll ended: the latest answer of each respondent, and the count of each option.

``chat.external`` documents the poll event, but not the fields of its answer. If an answer can't be decoded, the
response still counts, under the empty option (''). ``pcs.external.v1`` has no poll events.

To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Index,
    Select,
    Table,
    Text,
    case,
    cast,
    delete,
    func,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, array, distinct_on, insert

from eventstore.contracts import Contract
from eventstore.contracts.event_types import EventType
from eventstore.schema import events
from projections.projection import Projection, Window
from projections.read_models.common_columns import count_column, event_id, key_column, metadata, time

poll_responses = Table(
    "poll_responses",
    metadata,
    key_column("app", "The app whose poll it is."),
    key_column("send_request_id", "The request that carried the poll."),
    key_column("poll_id", "The poll; '' when not stated."),
    key_column("ppnum", "The respondent's phone number."),
    Column("options", ARRAY(Text), nullable=False, comment="The options chosen, as answered; empty when not stated."),
    event_id("event_id", "The event with the respondent's latest answer.", nullable=False),
    time("responded_at", "When that answer was given.", nullable=False),
    Index("poll_responses_ppnum_idx", "ppnum"),
    comment="The latest answer of each respondent to each poll.",
)

poll_tallies = Table(
    "poll_tallies",
    metadata,
    key_column("app", "The app whose poll it is."),
    key_column("send_request_id", "The request that carried the poll."),
    key_column("poll_id", "The poll; '' when not stated."),
    key_column("option", "The option; '' when not stated."),
    count_column("responses", "Respondents whose latest answer names the option."),
    time("last_response_at", "When the latest of these answers was given.", nullable=False),
    comment="How many respondents chose each option of each poll; options that nobody chooses now have no row.",
)

FEW = 16
"""Up to so many options of one answer, repetitions are found by comparing all of them."""

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
    absent_contracts: ClassVar[frozenset[str]] = frozenset({Contract.PCS_EXTERNAL_V1})
    status_query: ClassVar[Executable | None] = (
        select(
            func.count().label("incomplete_answers"),
            cast(func.coalesce(func.sum(events.c.poll_options_dropped), 0), BigInteger).label("dropped_options"),
            func.count().filter(events.c.poll_options.is_(None)).label("unreadable_answers"),
        )
        .select_from(events)
        .where(events.c.poll_options_dropped.is_not(None))
    )

    def describe_counts(self, counts: Mapping[str, int]) -> str | None:
        """Say how many poll answers could not be stored completely."""
        if not counts["incomplete_answers"]:
            return None
        dropped, unreadable = counts["dropped_options"], counts["unreadable_answers"]
        return (
            f"Incomplete poll answers: {counts['incomplete_answers']:,} (options dropped: {dropped:,},"
            f" answers unreadable: {unreadable:,})."
        )

    def fold(self, window: Window) -> Sequence[Executable]:
        """Fold answers, then the counts of the touched polls (0 where no answer is left), then delete the zeros."""
        return _responses(window), _tallies(window), _deserted(window)


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


def _tallies(window: Window) -> Executable:
    # Every step takes time in proportion to the number of options. Answers and stored counts go through one
    # aggregation: a join could get a bad plan that compares each option with every other one.
    chosen, known = _chosen(window), poll_tallies.c
    deserted = select(
        *(known[name] for name in (*_POLL, "option")), null(), known.last_response_at.label("then")
    ).where(window.touched(poll_tallies, _PARTITION))
    both = union_all(chosen, deserted).subquery("chosen_and_known")
    key = [both.c[name] for name in (*_POLL, "option")]
    tally = select(
        *key, func.count(both.c.responded_at), func.coalesce(func.max(both.c.responded_at), func.max(both.c.then))
    ).group_by(*key)
    new = insert(poll_tallies).from_select([column.name for column in poll_tallies.c], tally)
    t = poll_tallies.c
    return new.on_conflict_do_update(
        index_elements=[*_POLL, "option"],
        set_={name: new.excluded[name] for name in ("responses", "last_response_at")},
        where=or_(t.responses != new.excluded.responses, t.last_response_at != new.excluded.last_response_at),
    )


def _chosen(window: Window) -> Select[Any]:
    """Return every option of every answer of the touched polls; once, if an answer repeats it."""
    r = poll_responses.c
    stated = case((func.cardinality(r.options) == 0, cast(array([""]), ARRAY(Text))), else_=r.options)
    few = func.cardinality(r.options) <= FEW
    # An option that an answer names twice counts once. Among few options, it counts at its first place: that needs no
    # sorting or hashing, which would cost more than all the rest. Among many, searching for the first place is slow.
    named_once = select(func.unnest(r.options).label("option")).distinct().correlate(poll_responses).subquery("named")
    different = func.array(select(named_once.c.option).scalar_subquery(), type_=ARRAY(Text))
    named = (
        func.unnest(case((few, stated), else_=different))
        .table_valued("option", with_ordinality="place", name="named")
        .render_derived()
    )
    # The place is compared first, because each access to a long answer's options reads all of them from storage.
    place = named.c.place
    first = case((place > FEW, true()), (few, func.array_position(stated, named.c.option) == place), else_=true())
    return (
        select(
            *(r[name] for name in _POLL),
            named.c.option,
            r.responded_at,
            cast(null(), r.responded_at.type).label("then"),
        )
        .select_from(poll_responses.join(named, true()))
        .where(window.touched(poll_responses, _PARTITION), first)
    )


def _deserted(window: Window) -> Executable:
    return delete(poll_tallies).where(window.touched(poll_tallies, _PARTITION), poll_tallies.c.responses == 0)
