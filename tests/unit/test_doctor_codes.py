"""The codes of findings: docs/doctor.md lists them, the code uses no others, and a test produces each."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections.inspecting.finding import Finding, split_remedy
from projections.inspecting.finding_codes import CODES
from tools import doctor_codes

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    "integration/test_doctor.py",
    "integration/test_doctor_erasures.py",
    "integration/test_archive_partitions.py",
    "integration/test_archived_events.py",
    "integration/test_erase_archived.py",
    "integration/test_consumers_shown.py",
    "integration/test_partitioned_log.py",
    "integration/test_citus_operations.py",
    "acceptance/test_doctor_command.py",
)


def texts(*paths: Path) -> Iterator[str]:
    """The string literals of these modules."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_page_has_the_table_of_the_code() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "doctor_codes.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    page = doctor_codes.PAGE.read_text()
    assert doctor_codes.with_codes(page.replace("| `lock_wait` |", "| `lock` |")) == page


def test_the_code_uses_every_code_and_no_other() -> None:
    inspecting = ROOT / "projections" / "inspecting"
    modules = [inspecting / "health.py", *sorted((inspecting / "doctor").glob("*.py"))]
    assert set(texts(*modules)) & CODES.keys() == CODES.keys()
    with pytest.raises(KeyError):
        _ = Finding("no_such_code", "").severity


def test_a_test_produces_every_code() -> None:
    named = {
        word for text in texts(*(ROOT / "tests" / name for name in TESTS)) for word in re.findall(r"\b[a-z_]+\b", text)
    }
    assert sorted(CODES.keys() - named) == []


@pytest.mark.parametrize(
    ("command", "advice", "remedy"),
    [
        (None, None, ""),
        ("projections migrate", None, "; run projections migrate"),
        ("SELECT 1;", None, "; run in psql: SELECT 1;"),
        (None, "upgrade", "; upgrade"),
        ("projections run", "correct it, and start", "; correct it, and start: projections run"),
    ],
)
def test_a_finding_is_one_line_with_its_remedy(command: str | None, advice: str | None, remedy: str) -> None:
    assert Finding("redecoded", "it is wrong", command, advice).line == f"wrong [redecoded] it is wrong{remedy}"


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("it is behind; run projections rebuild a_b", ("it is behind", "projections rebuild a_b")),
        ("nobody folds it: start projections run", ("nobody folds it", "projections run")),
        ("run projections run", ("run projections run", None)),
        ("it failed; run projections rebuild x, or not", ("it failed; run projections rebuild x, or not", None)),
    ],
)
def test_a_remedy_is_split_from_a_sentence(sentence: str, parts: tuple[str, str | None]) -> None:
    assert split_remedy(sentence) == parts
