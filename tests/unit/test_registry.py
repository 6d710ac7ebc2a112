"""How projections are found through entry points, and how a broken one is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from projections.errors import InvalidProjection, UnknownProjection
from projections.registry import find_projections, find_valid_projections, select_projections
from tests.fake_package import install

SOURCE = """
from tests.unit.test_rules import Mine, make_table


class First(Mine):
    name = "first"
    tables = (make_table("first"),)


class Second(Mine):
    name = "second"
    tables = (make_table("second"),)


class Taken(Mine):
    name = "taken"
    tables = (make_table("request_status"),)


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
    tables = (make_table("fold_raises"),)

    def fold(self, window):
        raise KeyError("no such column")


class Other:
    name = "other"


def misspelt():
    from projections.blocks import event

    return event.phone
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


OURS = ["consent_registry", "people", "poll_tallies", "request_status"]


def test_built_in_projections_are_registered_like_a_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        folder, monkeypatch, {"registering": SOURCE}, {"second": "registering:Second", "first": "registering:First"}
    )
    names = ["consent_registry", "first", "people", "poll_tallies", "request_status", "second"]
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
    message = "unknown projection 'nobody'; known projections: consent_registry, people, poll_tallies, request_status"
    assert str(caught.value) == message


def test_a_class_that_two_distributions_register_is_one_projection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = find_projections()
    name = "request_status"
    install(folder, monkeypatch, {}, {name: "projections.read_models.request_status:RequestStatus"})
    after = find_projections()
    assert (after.projections.keys(), after.broken) == (before.projections.keys(), before.broken)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"first": "absent:First"}, "'first' can't be loaded from absent:First: No module named 'absent'"),
        ({"first": "registering:Absent"}, "'first' can't be loaded from registering:Absent"),
        ({"first": "registering:Raises"}, "'first' can't be loaded from registering:Raises: no such luck"),
        (
            {"first": "registering:misspelt"},
            r"loaded from registering:misspelt: registering\.py:[0-9]+: AttributeError: phone",
        ),
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
    folder: Path, monkeypatch: pytest.MonkeyPatch, points: dict[str, str], message: str
) -> None:
    install(folder, monkeypatch, {"registering": SOURCE}, points)
    with pytest.raises(InvalidProjection, match=message) as caught:
        find_valid_projections()
    assert "\n" not in str(caught.value)
    (name,) = points
    assert find_projections().broken == {name: str(caught.value)}
    assert list(select_projections([])) == OURS, "a broken projection doesn't block others"
    with pytest.raises(InvalidProjection, match=message):
        select_projections([name])


def test_two_projections_with_one_name_are_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    install(folder, monkeypatch, {"registering": SOURCE}, {"first": "registering:First"})
    install(others, monkeypatch, {"registering_too": SOURCE}, {"first": "registering_too:First"})
    with pytest.raises(InvalidProjection, match="two projections are named 'first'; rename one"):
        find_valid_projections()


SHARING = """
from pathlib import Path

from tests.unit.test_rules import Mine, make_table


class First(Mine):
    name = "first"
    tables = (make_table("first"),)
    migrations = Path(__file__).parent / "migrations"


class Second(Mine):
    name = "second"
    tables = (make_table("second"),)
    migrations = Path(__file__).parent / "elsewhere" / ".." / "migrations"
"""


def test_two_projections_that_share_their_migrations_are_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("migrations/versions", "elsewhere"):
        (folder / name).mkdir(parents=True)
    install(folder, monkeypatch, {"sharing": SHARING}, {"first": "sharing:First", "second": "sharing:Second"})
    message = "projections 'first' and 'second' share their migrations folder"
    with pytest.raises(InvalidProjection, match=message):
        find_valid_projections()
    assert "first" in find_projections().projections
