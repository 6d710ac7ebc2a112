"""The views of a projection: created, replaced and dropped by migrate, kept through rebuilds, granted to readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import func, literal, select
from structlog.testing import capture_logs

from projections.errors import InvalidProjection, MigrationRefused, UsageError
from projections.granting.grant_roles import RoleRequest
from projections.granting.role_kinds import RoleKind
from projections.inspecting.row_key import find_table
from projections.migrating.migrate import downgrade, upgrade
from projections.projection import Projection
from projections.rules import check_conflicts, check_projection
from projections.views import View
from tests import rebuilding, store
from tests.databases import Server
from tests.folding import NewerWatched, Watched, append, fold_all, new_record, watched
from tests.rebuilding import role
from tests.roles import grant_to

COUNTS = View(
    "watched_counts",
    "SELECT app, count(*) AS deliveries FROM public.watched GROUP BY app;",
    comment="Deliveries by app, 100% of them.",
    columns={"deliveries": "How many."},
)
# A query of SQLAlchemy, over another view, which is declared after it.
BUSY = View(
    "watched_busy",
    select(literal("%s", literal_execute=True).label("note"), func.count().label("apps")).select_from(
        select(watched.c.app).distinct().subquery("apps")
    ),
)
OF_COUNTS = View("watched_first", "SELECT max(deliveries) AS most FROM public.watched_counts")


def with_views(*views: View, base: type[Projection] = Watched, **attributes: object) -> Projection:
    made: Projection = type("WithViews", (base,), {"views": views, **attributes})()
    return made


def migrate(url: str, *views: View) -> None:
    upgrade(url, projections=[with_views(*views)])


@pytest.fixture
def look(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield conn


def stand(conn: psycopg.Connection[Any], name: str) -> tuple[Any, ...]:
    """Return what identifies a view, also whether it was replaced or its comments were set again."""
    found = conn.execute(
        "SELECT c.oid, r.xmin::text, obj_description(c.oid), (SELECT array_agg(d.xmin::text) FROM pg_description AS d"
        " WHERE objoid = c.oid) FROM pg_class AS c LEFT JOIN pg_rewrite AS r ON ev_class = c.oid"
        " WHERE c.oid = to_regclass(%s)",
        [f"public.{name}"],
    ).fetchone()
    assert found is not None
    return tuple(found)


def names(conn: psycopg.Connection[Any]) -> list[str]:
    rows = conn.execute("SELECT name FROM projections.views ORDER BY name").fetchall()
    return [row[0] for row in rows]


async def test_views_are_created_with_comments_left_alone_and_kept_through_a_rebuild(
    database_url: str, look: psycopg.Connection[Any]
) -> None:
    views = (OF_COUNTS, BUSY, COUNTS)
    migrate(database_url, *views)
    async with store.connection(database_url) as conn:
        await append(conn, new_record(1), new_record(1), new_record(1, app="other"))
    await fold_all(database_url, [Watched])
    assert look.execute("TABLE public.watched_counts ORDER BY 1").fetchall() == [("app", 2), ("other", 1)]
    assert look.execute("TABLE public.watched_busy").fetchall() == [("%s", 2)]
    assert look.execute("TABLE public.watched_first").fetchall() == [(2,)]
    comments = look.execute(
        "SELECT obj_description(oid), col_description(oid, 1), col_description(oid, 2) FROM pg_class"
        " WHERE oid = 'public.watched_counts'::regclass"
    ).fetchone()
    assert comments == ("Deliveries by app, 100% of them.", None, "How many.")
    before = {name: stand(look, name) for name in names(look)}
    assert sorted(before) == ["watched_busy", "watched_counts", "watched_first"]
    migrate(database_url, *views)
    await rebuilding.rebuild(database_url, with_views(*views, base=NewerWatched), limits=rebuilding.ANY_REMOVAL)
    assert {name: stand(look, name) for name in names(look)} == before
    assert look.execute("SELECT count(*) FROM public.watched_counts").fetchone() == (2,)


async def test_a_view_is_replaced_or_created_again_with_its_privileges(
    postgres: Server, database_url: str, look: psycopg.Connection[Any]
) -> None:
    async with role(postgres, database_url) as reader, role(postgres, database_url) as other:
        migrate(database_url)
        grant_to(database_url, RoleRequest(reader.name, RoleKind.READER))
        migrate(database_url, COUNTS, OF_COUNTS)
        look.execute(sql.SQL("GRANT SELECT ON public.watched_first TO {}").format(sql.Identifier(other.name)))
        look.execute(sql.SQL("GRANT SELECT (app) ON public.watched_counts TO {}").format(sql.Identifier(other.name)))
        first = stand(look, "watched_counts")
        more = View(COUNTS.name, "SELECT app, count(*) AS deliveries, 1 AS more FROM public.watched GROUP BY app")
        migrate(database_url, more, OF_COUNTS)
        second = stand(look, "watched_counts")
        assert (second[0], second[1] != first[1], second[2]) == (first[0], True, None)  # replaced, without comments
        fewer = View(COUNTS.name, "SELECT app, '7'::text AS deliveries FROM public.watched GROUP BY app")
        migrate(database_url, fewer, OF_COUNTS)
        assert stand(look, "watched_counts")[0] != first[0]
        granted = "SELECT has_table_privilege(%s, %s, 'SELECT')"
        for view in ("public.watched_counts", "public.watched_first"):
            assert look.execute(granted, [reader.name, view]).fetchone() == (True,)
        assert look.execute(granted, [other.name, "public.watched_first"]).fetchone() == (True,)
        column = "SELECT has_column_privilege(%s, 'public.watched_counts', %s, 'SELECT')"
        assert look.execute(column, [other.name, "app"]).fetchone() == (True,)
        assert look.execute(column, [other.name, "deliveries"]).fetchone() == (False,)


@pytest.mark.newest
def test_nothing_of_others_is_replaced_or_dropped(database_url: str, look: psycopg.Connection[Any]) -> None:
    look.execute("CREATE VIEW public.watched_counts AS SELECT 1 AS theirs")
    with pytest.raises(MigrationRefused) as taken:
        migrate(database_url, COUNTS)
    assert str(taken.value) == (
        "public.watched_counts already exists and isn't the view of projection 'watched'; rename one of the two"
    )
    look.execute("DROP VIEW public.watched_counts")
    migrate(database_url, COUNTS)
    look.execute("CREATE VIEW public.theirs AS SELECT app FROM public.watched_counts")
    with pytest.raises(MigrationRefused) as needed:
        migrate(database_url, View(COUNTS.name, "SELECT 1 AS other"))
    assert str(needed.value) == (
        "view public.watched_counts can't get its new columns while others depend on them: view public.theirs depends"
        " on view public.watched_counts. Drop these, run projections migrate, and create them again"
    )
    with pytest.raises(MigrationRefused) as dropped:
        migrate(database_url)
    assert str(dropped.value) == (
        "the projections no longer have the views watched_counts, and they can't be dropped while others depend on"
        " them: view public.theirs depends on view public.watched_counts. Drop these, run projections migrate, and"
        " create them again"
    )
    assert names(look) == ["watched_counts"]
    look.execute("DROP VIEW public.theirs")
    # A projection that isn't installed here keeps its views; one that no longer has them loses them.
    upgrade(database_url, projections=[])
    assert names(look) == ["watched_counts"]
    migrate(database_url)
    assert names(look) == []
    assert look.execute("SELECT to_regclass('public.watched_counts')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("watched_counts", "watched_counts is a view of watched, not a read model; explain a row of watched"),
        ("watched_first", "watched_first is a view of watched_counts, not a read model; the names are watched"),
        (
            "poll_results",
            "poll_results is a view of poll_tallies, poll_responses, not a read model; the names are watched",
        ),
        ("consent_history", "consent_history is a view of eventstore.events, not a read model; the names are watched"),
    ],
)
def test_who_asks_for_the_history_of_a_views_row_is_told_which_tables_it_reads(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_table({"watched": with_views(COUNTS, OF_COUNTS)}, name)
    assert str(caught.value) == message


def test_what_was_done_is_logged_once_it_is_committed(database_url: str, look: psycopg.Connection[Any]) -> None:
    with capture_logs() as logs:
        migrate(database_url, COUNTS)
    created = {"log_level": "info", "projection": "watched"}
    assert logs == [
        {**created, "event": "created tables", "tables": "watched", "next": "projections check watched"},
        {**created, "event": "created a view", "view": "watched_counts"},
    ]
    look.execute("CREATE VIEW public.watched_first AS SELECT 1 AS theirs")
    with capture_logs() as logs, pytest.raises(MigrationRefused, match="watched_first already exists"):
        migrate(database_url, View("watched_first", "SELECT 2 AS ours"))  # the other one was dropped before
    assert (logs, names(look)) == ([], ["watched_counts"])
    with capture_logs() as logs:
        migrate(database_url)
    assert [(line["event"], line["views"]) for line in logs] == [("dropped views", "watched_counts")]


def test_a_view_of_a_projection_that_is_not_installed_is_not_overwritten(
    database_url: str, look: psycopg.Connection[Any]
) -> None:
    migrate(database_url, COUNTS)
    other = with_views(
        View(COUNTS.name, "SELECT app, 1::bigint AS deliveries FROM public.opt_outs"), base=rebuilding.OptOuts
    )
    with pytest.raises(MigrationRefused) as refused:
        upgrade(database_url, projections=[other])
    assert str(refused.value) == (
        "view public.watched_counts of projection 'opt_outs' would replace that of projection 'watched', which isn't"
        " installed here; rename one of the two, or drop the view if nobody needs the old one"
    )
    upgrade(database_url, projections=[with_views(base=Watched), other])  # it is installed, and gave the view up
    assert look.execute("SELECT name, projection FROM projections.views").fetchall() == [("watched_counts", "opt_outs")]
    # The same view under another projection's name, as after a projection is renamed.
    with capture_logs() as logs:
        renamed = with_views(*other.views, base=rebuilding.OptOuts, name="renamed")
        upgrade(database_url, projections=[renamed])
    assert [line["event"] for line in logs] == ["took over a view"]


@pytest.mark.newest
def test_views_survive_an_earlier_revision_and_are_taken_over_again(
    database_url: str, look: psycopg.Connection[Any]
) -> None:
    migrate(database_url, COUNTS)
    before = stand(look, "watched_counts")
    downgrade(database_url, "0020")
    migrate(database_url, COUNTS)
    assert stand(look, "watched_counts") == before
    look.execute("DROP VIEW public.watched_counts")
    migrate(database_url, COUNTS)
    assert names(look) == ["watched_counts"]
    assert stand(look, "watched_counts")[0] != before[0]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            View("v", "SELECT app FROM watched"),
            "projection 'watched': view v: relation \"watched\" does not exist (SQLSTATE 42P01); names outside",
        ),
        (
            View("v", "SELECT nothing"),
            "projection 'watched': view v: column \"nothing\" does not exist (SQLSTATE 42703)",
        ),
        (
            View("v", "SELECT 1 AS a", columns={"b": "…", "c": "…"}),
            "projection 'watched': view v: it has comments on b, c, which are not among its columns",
        ),
    ],
)
def test_a_query_that_postgres_refuses_is_reported_and_nothing_is_changed(
    database_url: str, look: psycopg.Connection[Any], view: View, message: str
) -> None:
    with pytest.raises(InvalidProjection) as caught:
        migrate(database_url, view)
    assert str(caught.value).startswith(message)
    assert look.execute("SELECT to_regclass('public.watched')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ((View("Counts", "SELECT 1"),), "view Counts: a name has 1 to 63 lower-case letters, digits and '_'"),
        ((View("poll_results", "SELECT 1"),), "view poll_results has the name of a built-in view; choose another name"),
        ((View("watched", "SELECT 1"),), "view watched has the name of another of its tables or views; rename one"),
        ((COUNTS, COUNTS), "view watched_counts has the name of another of its tables or views; rename one"),
        (COUNTS, "views must be a collection of views, such as a tuple"),
        (("SELECT 1",), "views must contain only views"),
    ],
)
def test_names_of_views_follow_rules(views: Any, message: str) -> None:  # noqa: ANN401 - some are wrong on purpose
    with pytest.raises(InvalidProjection, match=message.replace("(", r"\(")):
        check_projection(with_views(*views) if isinstance(views, tuple) else type("V", (Watched,), {"views": views})())


def test_two_projections_have_no_view_or_table_of_one_name() -> None:
    accepted = {"watched": with_views(COUNTS)}
    other = with_views(COUNTS, name="other", tables=())
    with pytest.raises(InvalidProjection, match="view watched_counts belongs to two projections: watched and other"):
        check_conflicts(other, accepted)
    with pytest.raises(InvalidProjection, match="view watched belongs to two projections: watched and other"):
        check_conflicts(with_views(View("watched", "SELECT 1"), name="other", tables=()), accepted)
