"""Every rule that a projection and its tables must satisfy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    ColumnElement,
    Computed,
    Enum,
    Executable,
    FetchedValue,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    Table,
    Text,
    TextClause,
    false,
    func,
    literal,
    text,
)
from sqlalchemy.dialects.postgresql import DOMAIN

from eventstore.contracts import Event
from projections.errors import InvalidProjection
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from projections.rules import check_projection


def make_table(
    name: str = "mine",
    *columns: Column[Any],
    schema: str | None = "public",
    key: str = "app",
    **options: Any,  # noqa: ANN401 - SQLAlchemy's
) -> Table:
    return Table(name, MetaData(schema=schema), Column(key, Text, primary_key=True), *columns, **options)


def referring_table(target: str, **options: Any) -> Table:  # noqa: ANN401 - SQLAlchemy's
    """Return a table whose app refers to a column of another table."""
    key = Column("app", Text, ForeignKey(target, **options), primary_key=True)
    return Table("referring", MetaData(schema="public"), key)


class Mine(Projection):
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({1})
    tables: ClassVar[tuple[Table, ...]] = (make_table(),)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def fold(self, window: Window) -> Sequence[Executable]:
        assert window
        return ()


EVENT_ID = ("event_id", Text(collation="C"))


def python_table(event_id: Column[Any] | None = None, deleted: Column[Any] | None = None, *more: Column[Any]) -> Table:
    if event_id is None:
        event_id = Column(*EVENT_ID, nullable=False)
    if deleted is None:
        deleted = Column("deleted", Boolean, nullable=False)
    return make_table("mine", event_id, deleted, *more)


class MineInPython(PythonProjection):
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({1})
    tables: ClassVar[tuple[Table, ...]] = (python_table(),)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        assert event
        return ()


def changed_table(base: type[Projection], **attributes: object) -> Projection:
    made: Projection = type("Altered", (base,), attributes)()
    return made


@pytest.mark.parametrize("projection", [Mine(), MineInPython(), *(model() for model in READ_MODELS)])
def test_valid_projections_are_accepted(projection: Projection) -> None:
    check_projection(projection)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": None}, "must define name"),
        ({"version": None, "handles": None}, "must define version, handles"),
        ({"name": 5}, "name must be a string"),
        ({"version": "1"}, "version must be an integer"),
        ({"tables": make_table()}, "tables must be a collection of tables, such as a tuple"),
        ({"tables": ("mine",)}, "tables must contain only tables"),
        ({"partition_by": "app"}, "partition_by must be a collection of column names"),
        ({"handles": {"CONSENT_DENIED"}}, "handles must contain only numbers of event types"),
        ({"handles": 7}, "handles must be a collection of numbers"),
        ({"name": ""}, "a name has 1 to 48 lower-case letters"),
        ({"name": "Mine"}, "a name has 1 to 48 lower-case letters"),
        ({"name": "my-own"}, "a name has 1 to 48 lower-case letters"),
        ({"name": "9"}, "a name has 1 to 48 lower-case letters"),
        ({"name": "m" * 49}, "a name has 1 to 48 lower-case letters"),
        ({"version": 0}, "the version must be 1 or higher"),
        (
            {"tables": (make_table("mine", Column("mood", Enum("good", "bad", name="mood"))),)},
            "table mine has column mood, which uses a native enum or a domain",
        ),
        ({"tables": (make_table("mine", Column("moods", ARRAY(Enum("good", name="mood")))),)}, "native_enum=False"),
        ({"tables": (make_table("mine", Column("size", DOMAIN("size", Integer))),)}, "make it Text"),
        (
            {"tables": (make_table("mine", Column("n", Integer, default=1)),)},
            "column n, whose default must be a server_default",
        ),
        (
            {"tables": (make_table("mine", Column("n", Integer, onupdate=1)),)},
            "column n, whose default must be a server_default",
        ),
        *(
            (
                {"tables": (make_table("mine", Column("at", Text, server_default=default)),)},
                "column at, whose default must be a constant",
            )
            for default in (
                func.now(),
                text("now()"),
                text("CURRENT_TIMESTAMP"),
                text("current_user::text"),
                text("nextval('numbers'::regclass)"),
                text("'since ' || localtimestamp"),
            )
        ),
        (
            {"tables": (make_table("mine", Column("n", Integer, Identity())),)},
            "column n, whose default must be a constant",
        ),
        ({"migrations": Path("nowhere")}, "folder nowhere/versions does not exist; install the migrations"),
        ({"handles": frozenset()}, "tables, handles and partition_by must not be empty"),
        ({"tables": ()}, "tables, handles and partition_by must not be empty"),
        ({"partition_by": ()}, "tables, handles and partition_by must not be empty"),
        ({"partition_by": ("app", "colour")}, "'colour', which is not a column of events"),
        ({"partition_by": ("event_type",)}, "'event_type', which is not a text column"),
        ({"partition_by": ("app", "ppnum")}, "table mine must have ppnum of partition_by in its primary key"),
        ({"tables": (make_table(schema=None),)}, "table mine must be in schema public"),
        ({"tables": (make_table(schema="other"),)}, "table mine must be in schema public"),
        ({"tables": (make_table("poll_results"),)}, "table poll_results has the name of a built-in view"),
        (
            {"tables": (make_table(), make_table("second", key="ppnum"))},
            "table second must have app of partition_by in its primary key",
        ),
        ({"tables": (make_table("mine", prefixes=["UNLOGGED"]),)}, "table mine is UNLOGGED, so its rows can be lost"),
        ({"tables": (make_table("mine", prefixes=["TEMPORARY"]),)}, "table mine is TEMPORARY"),
        ({"tables": (make_table("mine", postgresql_on_commit="DROP"),)}, "postgresql_on_commit"),
        ({"tables": (make_table("mine", postgresql_inherits="other"),)}, "table mine inherits from another table"),
        ({"tables": (make_table("mine", postgresql_partition_by="LIST (app)"),)}, "bring an Alembic folder"),
        (
            {"tables": (make_table("mine", Column("at", Text, server_default=FetchedValue())),)},
            "whose values come from a trigger",
        ),
        (
            {"tables": (make_table("mine", Column("at", Text, server_onupdate=FetchedValue())),)},
            "whose values come from a trigger",
        ),
        (
            {"tables": (referring_table("public.request_status.app"),)},
            "refers to public.request_status, which is not a table of this projection",
        ),
        (
            {"tables": (make_table(), referring_table("public.mine.app"))},
            "that Postgres checks after each statement, .* make it deferrable=True",
        ),
        (
            {"tables": (make_table(), referring_table("public.mine.app", deferrable=True, ondelete="CASCADE"))},
            "with ON DELETE or ON UPDATE actions, which could change rows that a rebuild never compares",
        ),
        (
            {"tables": (make_table(), referring_table("public.mine.app", deferrable=True, onupdate="SET NULL"))},
            "remove ondelete and onupdate",
        ),
    ],
)
def test_each_broken_rule_is_reported(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidProjection, match=message):
        check_projection(changed_table(Mine, **attributes))


PERSONAL = (
    Column("ppnum", Text, primary_key=True),
    Column("other", Text),
    Column("note", Text),
    Column("digits", Integer),
)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"other": {"ppnum": "ppnum"}}, "personal_columns of other: it has no such table"),
        ({"mine": {"absent": "ppnum"}}, "personal_columns of mine: absent is not a text column of the table"),
        ({"mine": {"digits": "ppnum"}}, "personal_columns of mine: digits is not a text column of the table"),
        ({"mine": {"ppnum": "error_code"}}, "ppnum must be a copy of ppnum or message_id"),
        ({"mine": {"ppnum": "ppnum", "app": "message_id"}}, "app must be nullable, since an erased event has no"),
        (
            {"mine": {"other": "ppnum", "note": "message_id"}},
            "the table's key must have one copy of ppnum, which tells",
        ),
        ({"mine": {"note": "message_id"}}, "without a copy of ppnum, the rows of a person can't be found"),
    ],
)
def test_personal_columns_are_copies_in_text_columns(columns: dict[str, dict[str, str]], message: str) -> None:
    table = make_table("mine", *(Column(one.name, one.type, primary_key=one.primary_key) for one in PERSONAL))
    broken = type("Broken", (Mine,), {"tables": (table,), "personal_columns": columns})
    with pytest.raises(InvalidProjection, match=re.escape(message)):
        check_projection(broken())
    for good in (None, {}, {"mine": {"ppnum": "ppnum", "note": "message_id"}}):
        check_projection(type("Good", (Mine,), {"tables": (table,), "personal_columns": good})())


@pytest.mark.parametrize(
    "default",
    [
        "now() is a text here",
        text("0"),
        text("-1.5"),
        text("'it''s now()'"),
        text("'{}'::jsonb"),
        text("'x'::character varying(10)"),
        text("CAST('1' AS numeric(3, 1))"),
        text("ARRAY[]::text[]"),
        text("NULL"),
        false(),
        literal(7),
    ],
)
def test_a_server_default_may_be_any_constant(default: str | ColumnElement[Any] | TextClause) -> None:
    check_projection(
        changed_table(Mine, tables=(make_table("mine", Column("constant", Text, server_default=default)),))
    )


def test_tables_may_refer_to_each_other_with_deferrable_foreign_keys() -> None:
    check_projection(changed_table(Mine, tables=(make_table(), referring_table("public.mine.app", deferrable=True))))


def test_a_computed_column_is_accepted() -> None:
    computed = Column("loud", Text, Computed("upper(app)", persisted=True))
    check_projection(changed_table(Mine, tables=(make_table("mine", computed),)))


def test_the_longest_name_is_accepted() -> None:
    check_projection(changed_table(Mine, name="m" * 48))


NO_EVENT_ID = 'needs a column event_id of type Text\\(collation="C"\\)'
NO_DELETED = "must have its column deleted of type Boolean"
LOOSE = "must have event_id and deleted NOT NULL and outside its primary key"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (make_table(), NO_EVENT_ID),
        (python_table(Column("event_id", Text, nullable=False)), NO_EVENT_ID),
        (python_table(Column("event_id", Text(collation="de"), nullable=False)), NO_EVENT_ID),
        (python_table(Column("event_id", Integer, nullable=False)), NO_EVENT_ID),
        (python_table(None, Column("deleted", Integer, nullable=False)), NO_DELETED),
        (python_table(Column(*EVENT_ID)), LOOSE),
        (python_table(Column(*EVENT_ID, primary_key=True)), LOOSE),
        (python_table(None, Column("deleted", Boolean)), LOOSE),
        (
            Table(
                "mine",
                MetaData(schema="public"),
                Column("app", Text, primary_key=True),
                Column(*EVENT_ID, nullable=False),
                info={"wins": "last"},
            ),
            r"info\['wins'\] must be 'latest' or 'first', not 'last'",
        ),
        (python_table(None, None, Column("n", Integer, default=1)), "column n, whose default must be a server_default"),
        (
            python_table(None, None, Column("n", Integer, onupdate=1)),
            "column n, whose default must be a server_default",
        ),
        (
            python_table(None, None, Column("n", Integer, nullable=False)),
            "column n, which must be nullable or have a server_default",
        ),
    ],
)
def test_each_broken_rule_for_tables_folded_in_python_is_reported(table: Table, message: str) -> None:
    with pytest.raises(InvalidProjection, match=message):
        check_projection(changed_table(MineInPython, tables=(table,)))


def test_a_table_folded_in_python_without_tombstones_may_have_required_columns() -> None:
    columns = (Column("n", Integer, nullable=False), Column(*EVENT_ID, nullable=False))
    check_projection(changed_table(MineInPython, tables=(make_table("mine", *columns),)))


def test_a_column_folded_in_python_may_have_a_server_default() -> None:
    column = Column("n", Integer, nullable=False, server_default=text("0"))
    check_projection(changed_table(MineInPython, tables=(python_table(None, None, column),)))
