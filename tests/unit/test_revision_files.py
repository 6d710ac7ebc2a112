"""What is read from the files of the revisions is what Alembic finds, and commands work without loading Alembic."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.script import ScriptDirectory

from projections.cli.lazy_commands import SUMMARIES
from projections.migrating.alembic_scripts import alembic_config, load_revision
from projections.migrating.revision_files import read_revisions, read_text
from projections.migrating.schema_drift import _FUNCTIONS
from projections.migrating.schema_revision import head_revision

SLOW_LIBRARIES = ("alembic", "authlib", "httpx2")


def test_the_revisions_and_the_head_are_those_that_alembic_finds() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    assert read_revisions() == {one.revision: one.down_revision for one in script.walk_revisions()}
    assert head_revision() == script.get_current_head()


@pytest.mark.parametrize(("revision", "name"), _FUNCTIONS.values())
def test_a_text_is_the_one_that_the_revision_runs(revision: str, name: str) -> None:
    assert read_text(revision, name) == getattr(load_revision(revision), name)


@pytest.mark.parametrize(("revision", "name"), [("0007", "ABSENT"), ("9999", "REDECODE"), ("0005", "NEW_FRESHNESS")])
def test_a_text_that_is_missing_or_composed_is_an_error(revision: str, name: str) -> None:
    with pytest.raises(LookupError, match=f"revision {revision} has no text {name}"):
        read_text(revision, name)


@pytest.mark.parametrize(
    ("libraries", "needed_by"),
    [(SLOW_LIBRARIES, {"migrate"}), (("uvloop",), {"dashboard", "ingest", "run", "simulate"})],
    ids=["slow", "uvloop"],
)
def test_commands_start_without_libraries_that_few_of_them_need(
    libraries: tuple[str, ...], needed_by: set[str]
) -> None:
    lines = ["import sys", "from projections.cli.lazy_commands import LazyCommands", "commands = LazyCommands()"]
    for command in SUMMARIES.keys() - needed_by:
        lines += [f"commands[{command!r}]", f"print({command!r}, *(sys.modules.keys() & {set(libraries)}))"]
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert sorted(ended.stdout.splitlines()) == sorted(SUMMARIES.keys() - needed_by)
