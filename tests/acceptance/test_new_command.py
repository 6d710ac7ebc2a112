"""``projections new``: a package whose own test passes at once, in a virtualenv that has only the wheel."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.acceptance.command import Commands
from tests.acceptance.environments import ROOT, build_wheel, make_environment
from tests.json_documents import read_documents

KINDS = {"by_blocks": (), "by_sql": ("--sql",), "by_python": ("--python",)}


def run(python: Path, folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [python, "-m", *arguments],
        cwd=folder,
        env={"DATABASE_URL": url, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done


def install(python: Path, *sources: Path) -> None:
    """Install wheels or packages, with nothing from the network: their build backend is installed already."""
    uv = [str(Path(sysconfig.get_path("scripts")) / "uv"), "--quiet", "--no-config", "--offline", "pip", "install"]
    options = ["--no-cache", "--no-deps", "--no-index", "--no-build-isolation", "--python", str(python)]
    subprocess.run([*uv, *options, *map(str, sources)], check=True, capture_output=True)


async def test_each_kind_of_package_passes_its_test_and_is_listed(
    commands: Commands, database_url: str, tmp_path: Path
) -> None:
    python = make_environment(tmp_path / "environment")
    install(python, build_wheel(ROOT, tmp_path / "dist"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, options in KINDS.items():
        # The first one with the templates of the wheel, as it is installed.
        if name == "by_blocks":
            made = run(python, folder, database_url, "projections", "new", name)
            printed = made.stdout.splitlines()
        else:
            done = await commands.run("new", name, *options)
            assert done.code == 0, done.transcript
            printed = done.out.splitlines()
            (commands.folder / name).rename(folder / name)
        assert sorted(printed) == sorted(str(Path(name, path.name)) for path in (folder / name).iterdir())
        project = tomllib.loads((folder / name / "pyproject.toml").read_text())["project"]
        assert list(project["entry-points"]["projections"]) == [name]
    install(python, *(folder / name for name in KINDS))

    tests = [str(Path(name, f"test_{name}.py")) for name in KINDS]
    tested = run(python, folder, database_url, "pytest", "-q", "-c", "by_blocks/pyproject.toml", *tests)
    assert "6 passed" in tested.stdout
    listed = json.loads(run(python, folder, database_url, "projections", "list", "--json").stdout)
    assert {one["name"]: one["tables"] for one in listed if one["name"] in KINDS} == {name: [name] for name in KINDS}


async def test_it_says_what_was_made_and_refuses_what_exists(commands: Commands) -> None:
    made = await commands.run("new", "daily_costs", "--json")
    assert made.code == 0, made.transcript
    (document,) = read_documents("new", made.out)
    assert (document["name"], document["kind"], document["edit"]) == ("daily_costs", "blocks", "daily_costs.py")
    folder = commands.folder / document["folder"]
    assert sorted(document["files"]) == sorted(path.name for path in folder.iterdir())
    assert made.err.splitlines() == [
        "to test it: cd daily_costs && python -m pip install -e '.[test]' && pytest",
        "to make it your own, edit daily_costs/daily_costs.py; README.md says how to run it",
    ]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = await commands.run("new", "daily_costs", "--sql")
    assert (again.code, again.stderr_line) == (
        2,
        "projections: daily_costs already exists; choose another name or another folder",
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in commands.folder.iterdir()] == ["daily_costs"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Daily", "a name has 1 to 48 lower-case letters"),
        ("../daily", "a name has 1 to 48 lower-case letters"),
        ("class", "is a word of Python"),
        ("order", "is a word of SQL"),
        ("people", "a projection named 'people' is installed already"),
        ("poll_responses", "is a table of the projection poll_tallies"),
        ("consent_history", "is the name of a table or view of ours"),
        ("json", "a Python module named 'json' is installed already"),
    ],
)
async def test_a_name_that_is_taken_or_invalid_is_refused(commands: Commands, name: str, why: str) -> None:
    refused = await commands.run("new", name)
    assert refused.code == 2
    assert why in refused.stderr_line
    assert list(commands.folder.iterdir()) == []
