"""Declarations of building blocks: what follows from them, and the one sentence that refuses a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Date,
    Executable,
    Float,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    cast,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from projections.blocks import (
    BlockProjection,
    count,
    day,
    each,
    event,
    ever,
    first,
    greatest,
    key,
    latest,
    least,
    prefix,
    rows,
    tally,
    total,
    week,
)
from projections.errors import InvalidProjection
from projections.folding.sql_text import compile_ddl, compile_fold_statement, compile_reproducible
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.poll_tallies import PollTallies
from projections.rules import check_projection
from tests.block_examples import EXAMPLES, Costs

KEYS = (key("app"), key("send_request_id"), key("ppnum"))
deliveries = rows(
    "deliveries",
    *KEYS,
    latest("event_id"),
    latest("day", day(event.occurred_at, "Europe/Zurich")),
    latest("options", event.poll_options),
    of=1,
)
APP: Column[str] = Column("app", Text, primary_key=True)
COSTS = rows("costs", *KEYS, latest("event_id"), latest("at", event.occurred_at), of=1)
OPTIONS = deliveries.c.options
DETAILS = rows(
    "details",
    *KEYS,
    latest("event_id"),
    latest("details", func.json_build_object("code", event.error_code, type_=JSON)),
    of=1,
)
FACTLESS = rows("seen", key("app"), greatest("last_at", event.occurred_at), of=1)

untyped_rows: Any = rows
untyped_tally: Any = tally
untyped_ever: Any = ever
untyped_day: Any = day
untyped_prefix: Any = prefix
"""For mistakes that a type checker finds, too."""


def one_line(statement: ExecutableDDLElement) -> str:
    return " ".join(compile_ddl(statement).split())


def test_a_declaration_implies_the_table_its_indexes_and_the_attributes_of_the_projection() -> None:
    of = rows(
        "mine",
        key("app", comment="The app."),
        key("ppnum"),
        latest("event_id", comment="The event."),
        latest("code", event.error_code),
        latest("kind", event.event_type),
        latest.of(2)("failed_id", event.event_id),
        least("from_at", event.occurred_at),
        least("failed_at", event.occurred_at, where=event.event_type == 2),
        ever("has_failed", event.event_type == 2),
        Index("mine_code_idx", "code"),
        of=(1, 2),
        comment="Mine.",
    )
    groups = tally(
        "groups", of, key("app"), key("country", prefix(of.c.ppnum, 2)), count("rows"), total("kinds", of.c.kind)
    )

    class Mine(BlockProjection):
        name, version, blocks = "mine", 1, (of, groups)

    check_projection(Mine())
    assert (Mine.tables, Mine.handles, Mine.partition_by) == ((of.table, groups.table), frozenset({1, 2}), ("app",))
    assert dict(Mine.decided_by) == {}  # two facts
    assert one_line(CreateTable(of.table)) == (
        'CREATE TABLE public.mine ( app TEXT NOT NULL, ppnum TEXT NOT NULL, event_id TEXT COLLATE "C" NOT NULL,'
        ' code TEXT, kind INTEGER NOT NULL, failed_id TEXT COLLATE "C", from_at TIMESTAMP WITH TIME ZONE NOT NULL,'
        " failed_at TIMESTAMP WITH TIME ZONE, has_failed BOOLEAN NOT NULL, PRIMARY KEY (app, ppnum) )"
    )
    assert (of.table.comment, of.c.app.comment, of.c.event_id.comment) == ("Mine.", "The app.", "The event.")
    assert one_line(CreateTable(groups.table)) == (
        "CREATE TABLE public.groups ( app TEXT NOT NULL, country TEXT NOT NULL, rows INTEGER NOT NULL,"
        " kinds BIGINT NOT NULL, PRIMARY KEY (app, country) )"
    )
    assert sorted(compile_ddl(CreateIndex(index)) for index in of.table.indexes) == [
        "CREATE INDEX mine_app_expression_idx ON public.mine (app, nullif(left(ppnum, 2), ''))",
        "CREATE INDEX mine_code_idx ON public.mine (code)",
    ]


@pytest.mark.parametrize("projection", READ_MODELS)
def test_the_built_in_folds_change_no_data_in_a_cte(projection: type[Projection]) -> None:
    for statement in projection().fold(Window(projection.handles)):
        text, _ = compile_fold_statement(statement)
        assert text.startswith(("INSERT", "DELETE"))


def test_each_tally_of_a_block_has_its_index() -> None:
    of = rows("a" * 63, *KEYS, latest("event_id"), latest("at", event.occurred_at), of=1)
    of_day = key("day", day(of.c.at, "Europe/Zurich"))
    tally("days", of, key("app"), of_day, count("all"))
    tally("weeks", of, key("app"), key("week", week(of.c.at, "Europe/Zurich")), count("all"))
    tally("days_again", of, key("app"), key("day", day(of.c.at, "Europe/Zurich")), count("all"))
    names = {index.name or "" for index in of.table.indexes}
    assert (len(of.table.indexes), len(names), max(map(len, names))) == (2, 2, 63)
    assert {"date_trunc" in compile_ddl(CreateIndex(index)) for index in of.table.indexes} == {True, False}


@pytest.mark.parametrize("projection", [one.projection for one in EXAMPLES])
def test_the_examples_satisfy_the_rules(projection: type[Projection]) -> None:
    check_projection(projection())


def test_a_table_may_be_given_and_statements_and_tables_may_be_added() -> None:
    given = Table("given", MetaData(schema="public"), Column("app", Text, primary_key=True), Column("last_at", Date))
    own = Table("own", MetaData(schema="public"), Column("app", Text, primary_key=True))
    of = rows(given, key("app"), greatest("last_at", cast(event.occurred_at, Date)), of=1)

    class Mixed(BlockProjection):
        name, version, blocks = "mixed", 1, (of,)
        tables: ClassVar[tuple[Table, ...]] = (own,)
        handles: ClassVar[frozenset[int]] = frozenset({2})

        def fold(self, window: Window) -> Sequence[Executable]:
            return (*super().fold(window), delete(own).where(window.touched(own, ["app"])))

    check_projection(Mixed())
    assert (Mixed.tables, Mixed.handles, of.table) == ((given, own), frozenset({1, 2}), given)
    texts = [compile_fold_statement(statement)[0] for statement in Mixed().fold(Window(Mixed.handles))]
    assert [text.split()[2] for text in texts] == ["public.given", "public.own"]
    assert "event_type IN (1)" in texts[0]


_failed = latest.of(2)
_FAILED = (_failed("failed_id", event.event_id), _failed("code", event.error_code, nullable=False))
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no event types": (
        lambda: rows("mine", key("app"), latest("event_id")),
        "block mine: say which event types it is folded from: of=EventType.…",
    ),
    "no key": (lambda: rows("mine", latest("event_id"), of=1), r"block mine: it has no key; add key\(…\)"),
    "no value": (
        lambda: rows("mine", key("app"), latest("colour"), of=1),
        "block mine: colour is not a column of events; give its value",
    ),
    "no guard": (
        lambda: rows("mine", key("app"), latest("error_code"), of=1),
        r"no column holds the event_id of the event that decides error_code; add latest\('event_id'\)",
    ),
    "position": (
        lambda: rows("mine", key("app"), least("at", event.received_at), of=1),
        "at uses event.received_at, which differs in another log of the same events",
    ),
    "position in a condition": (
        lambda: rows("mine", key("app"), latest("event_id"), of=1, where=event.position > 5),
        "where= uses event.position, which differs in another log of the same events",
    ),
    "position in a fact's condition": (
        lambda: rows("mine", key("app"), latest.of(1, where=event.received_at > event.occurred_at)("event_id")),
        "event_id uses event.received_at, which differs in another log of the same events",
    ),
    "position in a text": (
        lambda: rows("mine", key("app"), least("at", literal_column("'x' || received_at"), type_=Text), of=1),
        "at uses event.received_at, which differs in another log of the same events",
    ),
    "a text that names a column": (
        lambda: rows("mine", key("app"), latest("event_id"), latest("at", "occurred_at"), of=1),
        r"block mine: at has the text 'occurred_at' as its value; write event\.occurred_at",
    ),
    "a text that names a column of rows": (
        lambda: tally("mine", deliveries, key("app"), key("on", "day"), count("all")),
        r"block mine: on has the text 'day' as its value; write ….c\.day",
    ),
    "a text in a function": (
        lambda: untyped_prefix("ppnum", 2),
        r"prefix\(…\) takes an expression of columns, .* not 'ppnum'",
    ),
    "a day of a text": (
        lambda: untyped_day("occurred_at", "UTC"),
        r"day\(…\) takes .* event\.occurred_at, not 'occurred_at'",
    ),
    "a condition of Python": (
        lambda: untyped_rows("mine", key("app"), latest("event_id"), of=1, where=event.ppnum is not None),
        "where= has True where an expression of columns belongs, .* write is_",
    ),
    "ever with a condition of Python": (
        lambda: untyped_rows("mine", key("app"), untyped_ever("failed", event.error_code is None), of=1),
        "failed has False where an expression of columns belongs",
    ),
    "an event type as a text": (
        lambda: untyped_rows("mine", key("app"), latest("event_id"), of="RECIPIENT_DELIVERED"),
        r"'RECIPIENT_DELIVERED' is no event type; write EventType\.RECIPIENT_DELIVERED",
    ),
    "a column of events without a name": (
        lambda: untyped_rows("mine", key("app"), latest("event_id"), event.error_code, of=1),
        r"is no column of a block; write key\(…\), latest\(…\)",
    ),
    "a tally of nothing": (
        lambda: untyped_tally("mine", key("app"), count("all")),
        r"the block whose rows it counts, which rows",
    ),
    "a missing comma": (
        lambda: type("Mine", (BlockProjection,), {"name": "mine", "version": 1, "blocks": deliveries}),
        r"Mine: blocks is a tuple; write blocks = \(…,\), with the comma",
    ),
    "the clock": (
        lambda: rows("mine", key("app"), least("at", func.now()), of=1),
        "at uses now, which depends on the clock, on chance or on the session",
    ),
    "chance in a text": (
        lambda: rows("mine", key("app"), least("at", literal_column("random()"), type_=Text), of=1),
        "at uses random, which depends on the clock, on chance or on the session",
    ),
    "the clock in a tally": (
        lambda: tally("mine", deliveries, key("app"), count("all"), where=deliveries.c.day < func.current_date()),
        "it uses current_date, which depends on the clock, on chance or on the session",
    ),
    "a condition on other rows": (
        lambda: rows("mine", key("app"), latest("event_id"), of=1, where=deliveries.c.day.is_(None)),
        r"where= uses deliveries\.day; a condition may use columns of event only",
    ),
    "a count of events": (
        lambda: rows("mine", key("app"), count("all", where=event.event_type == 1), of=1, counting=deliveries),
        r"all uses events\.event_type; it may use columns of the rows that it counts only",
    ),
    "twice": (
        lambda: rows("mine", key("app"), ever("at", event.event_type == 1), least("at", event.occurred_at), of=1),
        "block mine: it has column at more than once",
    ),
    "other columns": (
        lambda: rows("mine", key("app"), least("day", deliveries.c.day), of=1),
        r"day uses deliveries\.day; its value may use columns of event only",
    ),
    "count without rows": (
        lambda: rows("mine", key("app"), count("all"), of=1),
        r"all counts rows; name the block that has them: rows\(…, counting=block\)",
    ),
    "counting by another key": (
        lambda: rows("mine", key("app"), key("day", day(event.occurred_at, "UTC")), count("all"), counting=deliveries),
        r"its key must be columns of events that are also in the key of that table, .* use tally\(…\)",
    ),
    "counting without the rows' events": (
        lambda: rows("mine", key("app"), least("at", event.occurred_at), count("all"), of=6, counting=deliveries),
        "rows of deliveries change with events of types 1; add them to of=, without where=",
    ),
    "counting some events": (
        lambda: rows(
            "mine",
            key("app"),
            least("at", event.occurred_at),
            count("all"),
            of=1,
            where=event.ppnum == "",
            counting=deliveries,
        ),
        "rows of deliveries change with all events of their types; add them to of=, without where=",
    ),
    "no default": (
        lambda: rows("mine", key("app"), latest("event_id"), *_FAILED, of=1),
        "a row may exist without an event that decides code; give it a default=, or let it be NULL",
    ),
    "a fact of certain events of rows": (
        lambda: rows("mine", key("app"), latest.of(1)("day", deliveries.c.day), counting=deliveries),
        r"latest.of\(…\) and first.of\(…\) take values of events; of rows, use latest\(…\) or first\(…\)",
    ),
    "no constant type": (lambda: rows("mine", key("app"), key("what", func.mystery()), of=1), "name it with type_=…"),
    "no value at all": (lambda: latest("mine", 1.5), "a value is an expression of columns or a constant, not float"),  # type: ignore[arg-type]
    "zone": (lambda: day(event.occurred_at, "Zurich"), "'Zurich' is no time zone; write its name in the IANA database"),
    "given table": (
        lambda: rows(Table("mine", MetaData(), Column("app", Text, primary_key=True)), key("app"), key("ppnum"), of=1),
        "table mine has no column ppnum; add it, or leave it out here",
    ),
    "given table with a comment": (
        lambda: rows(Table("mine", MetaData(), Column("app", Text, primary_key=True)), key("app", comment="A"), of=1),
        "table mine is given, so its comments, indexes and metadata belong in its own declaration; leave them out",
    ),
    "given key": (
        lambda: rows(
            Table("mine", MetaData(), Column("app", Text, primary_key=True), Column("ppnum", Text)), *KEYS[::2], of=1
        ),
        r"table mine has the primary key app, and key\(…\) names app, ppnum; make them the same",
    ),
    "given guard": (
        lambda: rows("mine", key("app"), latest("event_id", type_=Text), of=1),
        r'event_id must compare by bytes, as event_ids do: Text\(collation="C"\)',
    ),
    "sum of floats": (
        lambda: tally("mine", deliveries, key("app"), total("sum", cast(deliveries.c.day, Float))),
        "column sum is a sum of floating-point numbers, which depends on their order; cast them to Numeric",
    ),
    "sum of floats in Numeric": (
        lambda: tally("mine", deliveries, key("app"), total("sum", cast(deliveries.c.day, Float), type_=Numeric)),
        "column sum is a sum of floating-point numbers",
    ),
    "small sum": (
        lambda: tally(
            "mine", deliveries, key("app"), total("sum", func.cardinality(OPTIONS, type_=Integer), type_=Integer)
        ),
        "column sum is a sum, for which INTEGER is too small or inexact; make it BigInteger or Numeric",
    ),
    "small sum in a given table": (
        lambda: tally(
            Table("mine", MetaData(), Column("app", Text, primary_key=True), Column("sum", Float)),
            deliveries,
            key("app"),
            total("sum", func.cardinality(OPTIONS, type_=Integer)),
        ),
        "column sum is a sum, for which FLOAT is too small or inexact",
    ),
    "latest json": (
        lambda: tally("mine", DETAILS, key("app"), latest("event_id"), latest("details")),
        "details is json, of which Postgres can't tell whether two values are equal; make it JSONB",
    ),
    "latest json of counted rows": (
        lambda: rows(
            "mine",
            key("app"),
            latest("details", DETAILS.c.details),
            latest("event_id", DETAILS.c.event_id),
            counting=DETAILS,
        ),
        "details is json, of which Postgres can't tell",
    ),
    "no prefix": (lambda: prefix(event.ppnum, 0), r"prefix\(…\) takes a number of characters, 1 or more, not 0"),
    "a negative prefix": (lambda: prefix(event.ppnum, -1), "1 or more, not -1"),
    "a prefix of a number": (
        lambda: prefix(event.event_type, 3),
        r"takes a text, and events\.event_type is INTEGER; write cast\(…, Text\)",
    ),
    "counting something else": (
        lambda: untyped_rows("mine", key("app"), count("all"), of=1, counting="deliveries"),
        r"counting= takes the block whose rows it counts, which rows\(…\) made",
    ),
    "sum of dates": (
        lambda: tally("mine", deliveries, key("app"), total("sum", deliveries.c.day)),
        "column sum is a sum, so its values must be integers or Numeric",
    ),
    "tally of nothing": (
        lambda: tally("mine", deliveries, key("app")),
        r"a tally has at least one key\(…\) and one of count\(…\)",
    ),
    "tally of events": (
        lambda: tally("mine", deliveries, key("app"), greatest("at", event.occurred_at)),
        "it uses events.occurred_at; the values of a tally are expressions of columns of deliveries",
    ),
    "fact in a tally": (
        lambda: tally("mine", deliveries, key("app"), latest.of(1)("day")),
        r"day is of certain events, and a tally has rows; use latest\(…\) or first\(…\)",
    ),
    "no zone": (
        lambda: tally("mine", COSTS, key("app"), key("day", cast(COSTS.c.at, Date)), count("all")),
        r"key day depends on the time zone of the session; name the zone: day\(…, 'Europe/Zurich'\)",
    ),
    "no zone in a month": (
        lambda: tally(
            "mine", COSTS, key("app"), key("m", func.date_trunc("month", COSTS.c.at), type_=Date), count("n")
        ),
        "key m depends on the time zone of the session",
    ),
    "latest without facts": (
        lambda: tally("mine", FACTLESS, key("app"), latest("last_at")),
        "no single event decides a row of seen, so no row is the latest or the first",
    ),
    "wide elements": (
        lambda: tally("mine", deliveries, key("app"), key("option", each(deliveries.c.options)), count("all")),
        r"its key must have the request or the person of the row, such as key\('send_request_id'\)",
    ),
    "elements of no array": (lambda: each(deliveries.c.day), r"each\(…\) takes an array column of the block"),
    "elements in rows": (
        lambda: rows("mine", key("app"), key("option", each(deliveries.c.options)), of=1),
        r"key option is each\(…\), which only a tally may have",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused_with_what_to_do(name: str) -> None:
    declare, message = WRONG[name]
    with pytest.raises(InvalidProjection, match=message):
        declare()


def declare_projection(*blocks: Any) -> type[Projection]:  # noqa: ANN401 - also what is no block
    return type("Mine", (BlockProjection,), {"name": "mine", "version": 1, "blocks": blocks})


def test_a_subclass_keeps_what_its_base_class_adds_to_the_blocks() -> None:
    newer = type("Newer", (ConsentRegistry,), {"version": 2})()
    check_projection(newer)
    assert newer.decided_by == {"consent_registry": "event_id"}
    assert (newer.tables, newer.partition_by) == (ConsentRegistry.tables, ConsentRegistry.partition_by)


def test_a_rebuild_looks_again_at_the_rows_of_requests_or_persons_and_at_all_groups_of_an_app() -> None:
    found = {table.name: [*Costs().partition_of(table)] for table in Costs.tables}
    assert found == {"changed": ["app", "send_request_id"], "touched": ["app"], "by_error": ["app"]}
    assert [[*PollTallies().partition_of(table)] for table in PollTallies.tables] == [["app", "send_request_id"]] * 2
    # Statements of its own may write any row of an app that an event names.
    beside = type("Beside", (Costs,), {"fold": lambda self, window: (*Costs.fold(self, window),)})()
    assert [[*beside.partition_of(table)] for table in Costs.tables] == [["app"]] * 3


def test_names_must_be_different_and_short_enough() -> None:
    with pytest.raises(InvalidProjection, match="table deliveries has the name of another of its tables; rename one"):
        check_projection(declare_projection(deliveries, tally("deliveries", deliveries, key("app"), count("all")))())
    with pytest.raises(InvalidProjection, match=r"'c{64}'; a name of a table or column has 1 to 63 bytes"):
        check_projection(declare_projection(rows("mine", key("app"), ever("c" * 64, event.event_type == 1), of=1))())


def test_blocks_must_fit_together() -> None:
    groups = tally("groups", deliveries, key("day"), count("all"))
    with pytest.raises(InvalidProjection, match="groups counts rows of deliveries, which must come before"):
        declare_projection(groups, deliveries)
    with pytest.raises(InvalidProjection, match=r"no column of events in common; add key\('app'\) to each"):
        declare_projection(deliveries, groups)
    with pytest.raises(InvalidProjection, match=r"blocks must contain only rows\(…\) and tally\(…\)"):
        declare_projection(deliveries.table)
    with pytest.raises(InvalidProjection, match="must define handles, tables, partition_by, or blocks, from which"):
        check_projection(declare_projection()())


def test_first_and_latest_guard_by_event_id() -> None:
    one = rows("one", key("app"), first("event_id"), of=1)
    other = rows("other", key("app"), latest("event_id"), of=1)
    texts = []
    for block in (one, other):
        (statement,) = declare_projection(block)().fold(Window({1}))
        texts.append(compile_fold_statement(statement)[0])
    assert "ORDER BY events_of_window.app, events_of_window.event_id ON" in texts[0]
    assert texts[0].endswith("WHERE public.one.event_id > excluded.event_id")
    assert "ORDER BY events_of_window.app, events_of_window.event_id DESC ON" in texts[1]
    assert texts[1].endswith("WHERE public.other.event_id < excluded.event_id")


def test_every_process_writes_the_same_text() -> None:
    """Facts are told apart by their addresses, and sets of texts have another order in each process."""
    texts = set()
    for _ in range(20):
        again, before = latest.of(), first.of()
        of = rows("mine", *KEYS, latest("event_id"), latest("error_code"), of=1)
        groups = tally(
            "groups",
            of,
            key("app"),
            first("first_id", of.c.event_id),
            before("first_code", of.c.error_code),
            again("last_id", of.c.event_id),
            latest("last_code", of.c.error_code),
        )
        fold = declare_projection(of, groups)().fold(Window({1}))
        texts.add("; ".join(compile_fold_statement(statement)[0] for statement in fold))
    assert len(texts) == 1
    orders = [["b", "a", "%(c)s"], ["%(c)s", "b", "a"]]
    queries = {compile_reproducible(select(event.app).where(event.app.in_(codes)))[0] for codes in orders}
    assert len(queries) == 1
    assert r"""IN (E'\x25(c)s'::VARCHAR, 'a'::VARCHAR, 'b'::VARCHAR)""" in queries.pop()
