"""``make run`` refuses a given database and wrong settings; the commands it suggests exist. CI runs it to its end."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from subprocess import run

import pytest

from projections.sandbox.demo import RUN as FOLLOW
from projections.sandbox.demo import SIMULATE, TRY_NEXT
from tests.acceptance.test_documented_commands import check_make, parse
from tests.fix_full_matrix import stood_for


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DATABASE_URL", "postgresql://nowhere/x", "unset DATABASE_URL"),
        *stood_for(
            "DATABASE_URL here: the demo asks given_database_url alone, and test_variables_of_libpq in"
            " tests/unit/test_database.py tests that for PGHOST",
            ("PGHOST", "postgresql://nowhere/x", "unset DATABASE_URL"),
        ),
        ("PROJECTIONS_DATABASE_CONNECT", "soon", "PROJECTIONS_DATABASE_CONNECT must be a number of seconds"),
    ],
)
def test_a_given_database_and_a_wrong_setting_are_refused_before_anything_is_created(
    tmp_path: Path, variable: str, value: str, words: str
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), variable: value}
    result = run(
        [sys.executable, "-m", "projections.sandbox.demo"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    (sentence,) = result.stderr.splitlines()
    assert words in sentence
    assert list(tmp_path.iterdir()) == []


def test_the_suggested_commands_exist() -> None:
    lines = re.findall(r"^  (projections|make) (\S.*?)  ", TRY_NEXT, re.MULTILINE)
    assert len(lines) >= 4
    for program, arguments in lines:
        if program == "make":
            check_make(arguments.split())
        else:
            parse(arguments.split())
    for arguments_of_demo in (SIMULATE, FOLLOW):
        parse(list(arguments_of_demo))
