"""A fold in Python returns typed rows: an instance of a dataclass for each row, where the latest or the first wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import Integer, Numeric, Table
from sqlalchemy.schema import CreateTable

from eventstore.contracts import Event
from eventstore.contracts.event_types import EventType
from projections.errors import InvalidProjection
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.folding.row_types import TypedRow, table_from
from projections.folding.sql_text import DIALECT
from projections.rebuilding.fingerprint import compute_fingerprint
from projections.rules import check_projection
from projections.testing import ProjectionKit, event

DELIVERED, POLL = EventType.RECIPIENT_DELIVERED, EventType.POLL_RESPONSE_RECEIVED


class Channel(StrEnum):
    CHAT = "chat"
    OTHER = "other"


@dataclass(frozen=True)
class FirstContact:
    """When each person was first written to.

    What follows the first paragraph is for programmers.
    """

    app: Annotated[str, "Who wrote."]
    ppnum: Annotated[str, "To whom."]
    contacted_at: datetime
    channel: Channel
    request: str | None = None


@dataclass(frozen=True)
class ChosenOption:
    ppnum: str
    option: str
    app: str
    place: Annotated[int, Integer]


first_contact = table_from(FirstContact, key=("app", "ppnum"), wins="first", indexes=[["contacted_at"]])
chosen_option = table_from(ChosenOption, key=("app", "ppnum", "option"), name="chosen", tombstones=True)


class Contacts(PythonProjection):
    """One event gives rows of two tables, and several of one."""

    name: ClassVar[str] = "contacts"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({DELIVERED, POLL})
    tables: ClassVar[tuple[Table, ...]] = (first_contact, chosen_option)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def handle(self, event: Event) -> Iterable[FirstContact | ChosenOption | Tombstone]:
        assert event.ppnum is not None
        if event.event_type == DELIVERED:
            yield FirstContact(event.app, event.ppnum, event.occurred_at, Channel.CHAT, event.send_request_id)
            yield FirstContact(event.app, event.ppnum, event.occurred_at, Channel.OTHER)
            yield Tombstone(chosen_option, {"app": event.app, "ppnum": event.ppnum, "option": "yes"})
        for place, option in enumerate(event.poll_options or ()):
            yield ChosenOption(event.ppnum, option, event.app, place)


class Wrong(Contacts):
    """Returns whatever it is told to."""

    def __init__(self, row: Any) -> None:  # noqa: ANN401 - mypy would refuse the wrong ones
        self._row = row

    def handle(self, event: Event) -> Any:  # noqa: ANN401 - as above
        assert event
        return [self._row]


def test_the_table_is_what_the_dataclass_says() -> None:
    text = str(CreateTable(first_contact).compile(dialect=DIALECT))
    assert [line.strip(" ,\t") for line in text.strip().splitlines()] == [
        "CREATE TABLE public.first_contact (",
        "app TEXT NOT NULL",
        "ppnum TEXT NOT NULL",
        "contacted_at TIMESTAMP WITH TIME ZONE NOT NULL",
        "channel TEXT NOT NULL",
        "request TEXT",
        'event_id TEXT COLLATE "C" NOT NULL',
        "PRIMARY KEY (app, ppnum)",
        ")",
    ]
    assert first_contact.comment == "When each person was first written to."
    assert first_contact.c.app.comment == "Who wrote."
    assert [index.name for index in first_contact.indexes] == ["first_contact_contacted_at_idx"]
    assert chosen_option.comment is None
    names = [(column.name, str(column.type), column.nullable) for column in chosen_option.c]
    assert names[:4] == [("app", "TEXT", False), ("ppnum", "TEXT", False), ("option", "TEXT", False), PLACE]
    assert names[4:] == [("event_id", 'TEXT COLLATE "C"', False), ("deleted", "BOOLEAN", False)]
    assert Contacts.decided_by == {"first_contact": "event_id", "chosen": "event_id"}
    check_projection(Contacts())


PLACE = ("place", "INTEGER", True)


@dataclass
class Everything:
    app: str
    ppnum: str
    amount: Annotated[Decimal, Numeric(10, 2), "What it cost."]
    share: float
    day: date
    hour: time
    took: timedelta
    id: UUID
    raw: bytes
    flags: tuple[bool, ...]
    more: dict[str, Any]
    names: list[str] | None


everything = table_from(Everything, key=["app", "ppnum"])


class All(PythonProjection):
    name: ClassVar[str] = "everything"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({DELIVERED})
    tables: ClassVar[tuple[Table, ...]] = (everything,)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def handle(self, event: Event) -> Iterable[Everything]:
        yield Everything(ppnum=event.ppnum or "", app=event.app, **VALUES)


VALUES: dict[str, Any] = {
    "amount": Decimal("1.50"),
    "share": 0.1,
    "day": date(2026, 1, 2),
    "hour": time(3, 4),
    "took": timedelta(seconds=5),
    "id": UUID(int=7),
    "raw": b"\x00\xff",
    "flags": (True, False),
    "more": {"a": [1, None]},
    "names": None,
}


async def test_rows_of_every_type_are_stored_and_the_first_or_the_latest_event_wins(database_url: str) -> None:
    events = [
        event(POLL, ppnum="1", poll_options=["yes", "no"]),
        event(DELIVERED, ppnum="1", send_request_id="first"),
        event(POLL, ppnum="1", poll_options=["no", "maybe"]),
        event(DELIVERED, ppnum="1", send_request_id="second"),
        event(DELIVERED, ppnum="2", send_request_id="third"),
    ]
    at = [one.occurred_at for one in events]
    key = {"app": "app", "ppnum": "1"}
    expected: dict[Table, list[dict[str, Any]]] = {
        first_contact: [
            # Of two rows of one event, the earlier one counts where the first wins.
            {**key, "contacted_at": at[1], "channel": "chat", "request": "first", "event_id": events[1].event_id},
            {"app": "app", "ppnum": "2", "contacted_at": at[4], "channel": "chat", "request": "third"},
        ],
        chosen_option: [
            {**key, "option": "no", "place": 0, "event_id": events[2].event_id},
            {**key, "option": "maybe", "place": 1},
        ],
    }
    async with ProjectionKit(database_url, Contacts()) as kit:
        await kit.assert_same_for_every_order(events, expected)
        assert [row["option"] for row in await kit.rows(chosen_option, deleted=True)] == ["maybe", "no", "yes", "yes"]
    async with ProjectionKit(database_url, All()) as kit:
        await kit.given([event(DELIVERED)])
        (row,) = await kit.rows(everything)
        assert {name: row[name] for name in VALUES} == {**VALUES, "flags": [True, False]}


@pytest.mark.newest
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (FirstContact("app", "9", VALUES["day"], Channel.CHAT), "ppnum of a row of first_contact differs from its"),
        (Tombstone(first_contact, {}), "first_contact takes no tombstones, because it has no column deleted"),
        (Row(first_contact, {"deleted": True}), "a row of first_contact sets deleted, which handle may not set"),
        (Everything, "handle returned a type; it must return Row, FirstContact, ChosenOption or Tombstone"),
    ],
)
async def test_a_wrong_row_is_reported(database_url: str, row: object, message: str) -> None:
    async with ProjectionKit(database_url, Wrong(row)) as kit:
        with pytest.raises(InvalidProjection, match=message):
            await kit.given([event(DELIVERED)])


class NoDataclass:
    app: str


@dataclass
class Odd:
    app: str
    other: object
    maybe: str | None
    event_id: str


@dataclass
class Unknown:
    app: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037 - a name that is known to type checkers only


@pytest.mark.parametrize(
    ("row_type", "key", "message"),
    [
        (NoDataclass, ["app"], r"row type NoDataclass is not a dataclass; decorate it with @dataclass"),
        (Unknown, ["app"], r"row type Unknown: the type 'Nowhere' of a field is not known at run time"),
        (Odd, ["app"], r"row type Odd: no column type fits field other: <class 'object'>; name one with Annotated"),
        (FirstContact, ["app", "request"], r"row type FirstContact: field request of the key can't be None"),
        (
            FirstContact,
            ["app", "pnum"],
            r"row type FirstContact: key and indexes must name fields of it, not \['pnum'\]",
        ),
        (FirstContact, [], r"row type FirstContact: key and indexes must name fields of it, not nothing"),
    ],
)
def test_a_dataclass_that_cant_be_a_table_is_refused(row_type: type[TypedRow], key: list[str], message: str) -> None:
    with pytest.raises(InvalidProjection, match=message):
        table_from(row_type, key=key)


@dataclass
class TakesOurName:
    app: str
    deleted: bool


def test_names_that_the_engine_sets_and_row_types_of_two_tables_are_refused() -> None:
    with pytest.raises(InvalidProjection, match="field deleted is set by the engine; give it another name"):
        table_from(TakesOurName, key=["app"])
    twice = (first_contact, table_from(FirstContact, key=("app", "ppnum"), name="again"))
    with pytest.raises(InvalidProjection, match="tables first_contact and again have the same row type FirstContact"):
        check_projection(type("Twice", (Contacts,), {"tables": twice})())


def test_the_fingerprint_tells_which_event_wins() -> None:
    latest = table_from(FirstContact, key=("app", "ppnum"), indexes=[["contacted_at"]])
    other = type("Latest", (Contacts,), {"tables": (latest, chosen_option)})()
    assert compute_fingerprint(other, []) != compute_fingerprint(Contacts(), [])
