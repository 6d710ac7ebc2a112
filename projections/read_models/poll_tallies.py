"""``poll_tallies`` answers how a poll ended: the latest answer of each respondent, and the count of each option.

``chat.external`` documents the poll event, but not the fields of its answer. If an answer can't be decoded, the
response still counts, under the empty option (''). ``pcs.external.v1`` has no poll events.

To add a column, see ``docs/where-to-add.md``: it also needs a migration, a higher ``version``, the tests' oracle and
``docs/read-models.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sqlalchemy import BigInteger, Executable, Index, Text, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY, array

from eventstore.contracts import Contract
from eventstore.contracts.event_types import EventType
from projections.blocks import BlockProjection, count, each, event, greatest, key, latest, rows, tally
from projections.read_models.common_columns import INCOMPLETE, metadata

_POLL = (
    key("app", comment="The app whose poll it is."),
    key("send_request_id", comment="The request that carried the poll."),
)
_poll_id = func.coalesce(event.poll_id, "")
_options = func.coalesce(event.poll_options, cast(array([]), ARRAY(Text)))
_options_comment = "The options chosen, as answered; empty when not stated."
responses = rows(
    "poll_responses",
    *_POLL,
    key("poll_id", _poll_id, "The poll; '' when not stated."),
    key("ppnum", comment="The respondent's phone number."),
    latest("options", _options, _options_comment, nullable=False),
    latest("event_id", comment="The event with the respondent's latest answer."),
    latest("responded_at", event.occurred_at, "When that answer was given."),
    Index("poll_responses_ppnum_idx", "ppnum"),
    of=EventType.POLL_RESPONSE_RECEIVED,
    comment="The latest answer of each respondent to each poll.",
    metadata=metadata,
)
poll_responses = responses.table
tallies = tally(
    "poll_tallies",
    responses,
    *_POLL,
    key("poll_id", comment="The poll; '' when not stated."),
    key("option", each(poll_responses.c.options, empty=""), "The option; '' when not stated."),
    count("responses", comment="Respondents whose latest answer names the option."),
    greatest("last_response_at", poll_responses.c.responded_at, "When the latest of these answers was given."),
    comment="How many respondents chose each option of each poll; options that nobody chooses now have no row.",
    metadata=metadata,
)
poll_tallies = tallies.table


class PollTallies(BlockProjection):
    """Folds poll answers."""

    name, version, blocks = "poll_tallies", 1, (responses, tallies)
    absent_contracts: ClassVar[frozenset[str]] = frozenset({Contract.PCS_EXTERNAL_V1})
    status_query: ClassVar[Executable | None] = select(
        func.count().label("incomplete_answers"),
        cast(func.coalesce(func.sum(INCOMPLETE.c.poll_options_dropped), 0), BigInteger).label("dropped_options"),
        func.count().filter(INCOMPLETE.c.poll_options.is_(None)).label("unreadable_answers"),
    ).select_from(INCOMPLETE)

    def describe_counts(self, counts: Mapping[str, int]) -> str | None:
        """Say how many poll answers could not be stored completely."""
        if not counts["incomplete_answers"]:
            return None
        answers, dropped, unreadable = (
            counts[name] for name in ("incomplete_answers", "dropped_options", "unreadable_answers")
        )
        return (
            f"Incomplete poll answers: {answers:,} (options dropped: {dropped:,}, answers unreadable: {unreadable:,})."
        )
