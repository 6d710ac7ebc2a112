"""Every rule that a projection must satisfy, and what happens to entry points that break one."""

from __future__ import annotations

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
from projections.errors import InvalidProjection, UnknownProjection
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from projections.registry import find_projections, find_valid_projections, select_projections
from projections.rules import check_projection
from tests.installed import install


def a_table(
    name: str = "mine",
    *columns: Column[Any],
    schema: str | None = "public",
    key: str = "app",
    **options: Any,  # noqa: ANN401 - SQLAlchemy's
) -> Table:
    return Table(name, MetaData(schema=schema), Column(key, Text, primary_key=True), *columns, **options)


def referring(target: str, **options: Any) -> Table:  # noqa: ANN401 - SQLAlchemy's
    """A table whose app refers to a column of another table."""
    key = Column("app", Text, ForeignKey(target, **options), primary_key=True)
    return Table("referring", MetaData(schema="public"), key)


class Mine(Projection):
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({1})
    tables: ClassVar[tuple[Table, ...]] = (a_table(),)
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
    return a_table("mine", event_id, deleted, *more)


class MineInPython(PythonProjection):
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({1})
    tables: ClassVar[tuple[Table, ...]] = (python_table(),)
    partition_by: ClassVar[tuple[str, ...]] = ("app",)

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        assert event
        return ()


def altered(base: type[Projection], **attributes: object) -> Projection:
    made: Projection = type("Altered", (base,), attributes)()
    return made


@pytest.mark.parametrize("projection", [Mine(), MineInPython(), *(model() for model in READ_MODELS)])
def test_valid_projections_are_accepted(projection: Projection) -> None:
    check_projection(projection)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"name": None}, "must define name"),
        ({"version": None, "handles": None}, "must define version, handles"),
        ({"name": 5}, "name must be a string"),
        ({"version": "1"}, "version must be an integer"),
        ({"tables": a_table()}, "tables must be a collection of tables, such as a tuple"),
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
            {"tables": (a_table("mine", Column("mood", Enum("good", "bad", name="mood"))),)},
            "table mine has column mood, whose type has a name of its own",
        ),
        ({"tables": (a_table("mine", Column("moods", ARRAY(Enum("good", name="mood")))),)}, "native_enum=False"),
        ({"tables": (a_table("mine", Column("size", DOMAIN("size", Integer))),)}, "make it Text"),
        (
            {"tables": (a_table("mine", Column("n", Integer, default=1)),)},
            "column n, whose default must be a server_default",
        ),
        (
            {"tables": (a_table("mine", Column("n", Integer, onupdate=1)),)},
            "column n, whose default must be a server_default",
        ),
        *(
            (
                {"tables": (a_table("mine", Column("at", Text, server_default=default)),)},
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
            {"tables": (a_table("mine", Column("n", Integer, Identity())),)},
            "column n, whose default must be a constant",
        ),
        ({"migrations": Path("nowhere")}, "folder nowhere/versions does not exist; install the migrations"),
        ({"handles": frozenset()}, "tables, handles and partition_by must not be empty"),
        ({"tables": ()}, "tables, handles and partition_by must not be empty"),
        ({"partition_by": ()}, "tables, handles and partition_by must not be empty"),
        ({"partition_by": ("app", "colour")}, "'colour', which is not a column of events"),
        ({"partition_by": ("event_type",)}, "'event_type', which is not a text column"),
        ({"partition_by": ("app", "ppnum")}, "table mine must have ppnum of partition_by in its primary key"),
        ({"tables": (a_table(schema=None),)}, "table mine must be in schema public"),
        ({"tables": (a_table(schema="other"),)}, "table mine must be in schema public"),
        ({"tables": (a_table("poll_results"),)}, "table poll_results has the name of a built-in view"),
        (
            {"tables": (a_table(), a_table("second", key="ppnum"))},
            "table second must have app of partition_by in its primary key",
        ),
        ({"tables": (a_table("mine", prefixes=["UNLOGGED"]),)}, "table mine is UNLOGGED, so its rows can be lost"),
        ({"tables": (a_table("mine", prefixes=["TEMPORARY"]),)}, "table mine is TEMPORARY"),
        ({"tables": (a_table("mine", postgresql_on_commit="DROP"),)}, "postgresql_on_commit"),
        ({"tables": (a_table("mine", postgresql_inherits="other"),)}, "table mine inherits from another table"),
        ({"tables": (a_table("mine", postgresql_partition_by="LIST (app)"),)}, "bring an Alembic folder"),
        (
            {"tables": (a_table("mine", Column("at", Text, server_default=FetchedValue())),)},
            "whose values come from a trigger",
        ),
        (
            {"tables": (a_table("mine", Column("at", Text, server_onupdate=FetchedValue())),)},
            "whose values come from a trigger",
        ),
        (
            {"tables": (referring("public.request_status.app"),)},
            "refers to public.request_status, which is not a table of this projection",
        ),
        (
            {"tables": (a_table(), referring("public.mine.app"))},
            "that Postgres checks after each statement, .* make it deferrable=True",
        ),
        (
            {"tables": (a_table(), referring("public.mine.app", deferrable=True, ondelete="CASCADE"))},
            "with an action, which could delete or change rows in a rebuild",
        ),
        (
            {"tables": (a_table(), referring("public.mine.app", deferrable=True, onupdate="SET NULL"))},
            "leave out ondelete and onupdate",
        ),
    ],
)
def test_each_broken_rule_is_reported(attributes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidProjection, match=said):
        check_projection(altered(Mine, **attributes))


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
    check_projection(altered(Mine, tables=(a_table("mine", Column("constant", Text, server_default=default)),)))


def test_tables_may_refer_to_each_other_with_deferrable_foreign_keys() -> None:
    check_projection(altered(Mine, tables=(a_table(), referring("public.mine.app", deferrable=True))))


def test_a_computed_column_is_accepted() -> None:
    computed = Column("loud", Text, Computed("upper(app)", persisted=True))
    check_projection(altered(Mine, tables=(a_table("mine", computed),)))


def test_the_longest_name_is_accepted() -> None:
    check_projection(altered(Mine, name="m" * 48))


NO_EVENT_ID = 'needs a column event_id of type Text\\(collation="C"\\)'
NO_DELETED = "needs a column deleted of type Boolean"
LOOSE = "must have event_id and deleted NOT NULL and outside its primary key"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (a_table(), NO_EVENT_ID),
        (python_table(Column("event_id", Text, nullable=False)), NO_EVENT_ID),
        (python_table(Column("event_id", Text(collation="de"), nullable=False)), NO_EVENT_ID),
        (python_table(Column("event_id", Integer, nullable=False)), NO_EVENT_ID),
        (a_table("mine", Column(*EVENT_ID, nullable=False)), NO_DELETED),
        (python_table(None, Column("deleted", Integer, nullable=False)), NO_DELETED),
        (python_table(Column(*EVENT_ID)), LOOSE),
        (python_table(Column(*EVENT_ID, primary_key=True)), LOOSE),
        (python_table(None, Column("deleted", Boolean)), LOOSE),
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
def test_each_broken_rule_for_tables_folded_in_python_is_reported(table: Table, said: str) -> None:
    with pytest.raises(InvalidProjection, match=said):
        check_projection(altered(MineInPython, tables=(table,)))


def test_a_column_folded_in_python_may_have_a_server_default() -> None:
    column = Column("n", Integer, nullable=False, server_default=text("0"))
    check_projection(altered(MineInPython, tables=(python_table(None, None, column),)))


# Entry points

SOURCE = """
from tests.unit.test_registry import Mine, a_table


class First(Mine):
    name = "first"
    tables = (a_table("first"),)


class Second(Mine):
    name = "second"
    tables = (a_table("second"),)


class Taken(Mine):
    name = "taken"
    tables = (a_table("request_status"),)


class WithoutVersion(Mine):
    name = "without_version"
    version = 0


class Nameless(Mine):
    name = None


class Raises(Mine):
    def __init__(self):
        raise RuntimeError("no such luck")


class Abstract(Mine.__mro__[1]):
    name = "abstract"


class FoldRaises(Mine):
    name = "fold_raises"
    tables = (a_table("fold_raises"),)

    def fold(self, window):
        raise KeyError("no such column")


class Other:
    name = "other"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


OURS = ["consent_registry", "poll_tallies", "request_status"]


def test_built_in_projections_are_registered_like_a_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        folder, monkeypatch, {"registering": SOURCE}, {"second": "registering:Second", "first": "registering:First"}
    )
    names = ["consent_registry", "first", "poll_tallies", "request_status", "second"]
    assert list(find_valid_projections()) == names
    assert list(select_projections([])) == names


def test_named_projections_are_selected_once_and_in_order() -> None:
    assert list(select_projections(["poll_tallies", "consent_registry", "poll_tallies"])) == [
        "poll_tallies",
        "consent_registry",
    ]


def test_an_unknown_name_is_reported_with_the_known_names() -> None:
    with pytest.raises(UnknownProjection) as caught:
        select_projections(["request_status", "nobody"])
    said = "unknown projection 'nobody'; known projections: consent_registry, poll_tallies, request_status"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ({"first": "absent:First"}, "'first' can't be loaded from absent:First: No module named 'absent'"),
        ({"first": "registering:Absent"}, "'first' can't be loaded from registering:Absent"),
        ({"first": "registering:Raises"}, "'first' can't be loaded from registering:Raises: no such luck"),
        ({"abstract": "registering:Abstract"}, "'abstract' can't be loaded from registering:Abstract: .*abstract"),
        ({"other": "registering:Other"}, "'other': registering:Other is not a Projection"),
        ({"nameless": "registering:Nameless"}, "projection class Nameless must define name"),
        ({"without_version": "registering:WithoutVersion"}, "'without_version': the version must be 1 or higher"),
        ({"second": "registering:First"}, "'first' is registered as 'second'; the two names must be equal"),
        (
            {"fold_raises": "registering:FoldRaises"},
            "'fold_raises': its fold or its status_query can't be built: KeyError: 'no such column'",
        ),
        ({"taken": "registering:Taken"}, "table request_status belongs to two projections: request_status and taken"),
    ],
)
def test_a_broken_entry_point_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, points: dict[str, str], said: str
) -> None:
    install(folder, monkeypatch, {"registering": SOURCE}, points)
    with pytest.raises(InvalidProjection, match=said) as caught:
        find_valid_projections()
    assert "\n" not in str(caught.value)
    (name,) = points
    assert find_projections().broken == {name: str(caught.value)}
    assert list(select_projections([])) == OURS, "one that is broken holds up no other"
    with pytest.raises(InvalidProjection, match=said):
        select_projections([name])


def test_two_projections_with_one_name_are_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    install(folder, monkeypatch, {"registering": SOURCE}, {"first": "registering:First"})
    install(others, monkeypatch, {}, {"first": "registering:First"})
    with pytest.raises(InvalidProjection, match="two projections are named 'first'; rename one"):
        find_valid_projections()


SHARING = """
from pathlib import Path

from tests.unit.test_registry import Mine, a_table


class First(Mine):
    name = "first"
    tables = (a_table("first"),)
    migrations = Path(__file__).parent / "migrations"


class Second(Mine):
    name = "second"
    tables = (a_table("second"),)
    migrations = Path(__file__).parent / "elsewhere" / ".." / "migrations"
"""


def test_two_projections_that_share_their_migrations_are_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("migrations/versions", "elsewhere"):
        (folder / name).mkdir(parents=True)
    install(folder, monkeypatch, {"sharing": SHARING}, {"first": "sharing:First", "second": "sharing:Second"})
    said = "projections 'first' and 'second' share their migrations folder"
    with pytest.raises(InvalidProjection, match=said):
        find_valid_projections()
    assert "first" in find_projections().projections
