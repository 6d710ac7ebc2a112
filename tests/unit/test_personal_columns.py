"""Blocks know by themselves which of their columns are copies of a number, and which do more with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest
from sqlalchemy import Executable

from projections import EventType
from projections.blocks import BlockProjection, count, event, greatest, key, latest, prefix, rows, tally
from projections.blocks.personal_columns import derive_personal_columns
from projections.blocks.row_block import Rows
from projections.blocks.tally_block import Tally
from projections.migrating.metadata import READ_MODELS
from projections.projection import Window

OF = EventType.RECIPIENT_DELIVERED
APP, PERSON = key("app"), key("ppnum")


BUILT_IN = {
    "request_status": {"request_recipients": {"ppnum": "ppnum", "message_id": "message_id"}},
    "consent_registry": {"consent_registry": {"ppnum": "ppnum"}},
    "poll_tallies": {"poll_responses": {"ppnum": "ppnum"}},
    "people": {"person_requests": {"ppnum": "ppnum"}, "people": {"ppnum": "ppnum"}},
}


def test_the_built_in_projections_have_those_of_their_blocks() -> None:
    assert {one.name: one.personal_columns for one in READ_MODELS} == BUILT_IN


def test_a_class_may_declare_its_own_and_statements_of_its_own_need_that() -> None:
    class Derived(BlockProjection):
        name, version, blocks = "derived", 1, (_deliveries,)

    class Declared(Derived):
        personal_columns: ClassVar[Mapping[str, Mapping[str, str]] | None] = {}

    class WithStatements(Derived):
        def fold(self, window: Window) -> Sequence[Executable]:
            return super().fold(window)

    assert Derived.personal_columns == {"deliveries": {"ppnum": "ppnum"}}
    assert Declared.personal_columns == {}
    assert WithStatements.personal_columns is None


_deliveries = rows("deliveries", APP, PERSON, latest("event_id"), of=OF)
_messages = rows("messages", APP, PERSON, latest("event_id"), latest("last", event.message_id), of=OF)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((rows("requests", APP, key("send_request_id"), latest("event_id"), of=OF),), {}),
        ((_deliveries,), {"deliveries": {"ppnum": "ppnum"}}),
        ((_messages,), {"messages": {"ppnum": "ppnum", "last": "message_id"}}),
        (
            (rows("asked", APP, PERSON, latest("event_id"), of=OF, where=event.ppnum != ""),),
            {"asked": {"ppnum": "ppnum"}},
        ),
        ((_deliveries, tally("all_of_app", _deliveries, APP, count("persons"))), {"deliveries": {"ppnum": "ppnum"}}),
        (
            (_deliveries, tally("of_person", _deliveries, APP, key("who", _deliveries.c.ppnum), count("requests"))),
            {"deliveries": {"ppnum": "ppnum"}, "of_person": {"who": "ppnum"}},
        ),
    ],
    ids=["none", "key", "message", "asked for", "tally", "tally by person"],
)
def test_plain_copies_are_found(blocks: tuple[Rows | Tally, ...], expected: dict[str, dict[str, str]]) -> None:
    assert derive_personal_columns(blocks) == expected


@pytest.mark.parametrize(
    "blocks",
    [
        (rows("a", APP, key("country", prefix(event.ppnum, 2)), latest("event_id"), of=OF),),
        (rows("b", APP, PERSON, latest("event_id"), latest("country", prefix(event.ppnum, 2)), of=OF),),
        (rows("c", APP, greatest("last", event.ppnum), of=OF),),
        (rows("d", APP, key("message_id"), latest("event_id"), of=OF),),
        (rows("e", APP, PERSON, latest("event_id"), of=OF, where=event.ppnum.like("41%")),),
        (rows("f", APP, PERSON, latest("event_id"), of=OF, where=event.message_id.is_not(None)),),
        (rows("other", APP, key("send_request_id"), latest("event_id"), latest("ppnum"), latest("message_id"), of=OF),),
        (rows("g", APP, key("send_request_id"), latest("event_id"), latest("message_id"), of=OF),),
        (_deliveries, tally("h", _deliveries, APP, key("country", prefix(_deliveries.c.ppnum, 2)), count("n"))),
        (_deliveries, tally("i", _deliveries, APP, count("n"), where=_deliveries.c.ppnum > "42")),
    ],
    ids=[
        "key",
        "value",
        "greatest",
        "message in a key",
        "condition",
        "message",
        "of another",
        "no number",
        "group",
        "counted",
    ],
)
def test_blocks_that_look_inside_need_a_rebuild(blocks: tuple[Rows | Tally, ...]) -> None:
    assert derive_personal_columns(blocks) is None
