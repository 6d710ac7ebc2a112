"""Records the texts of the SQL statements that the product sends, so that a run can compare two servers' share of them.

Every query goes through psycopg's ``PostgresQuery``, ``PostgresRawQuery`` for raw cursors (which run the folds), or
``PostgresClientQuery`` for cursors that write values into the text (of replays), in this process and in the commands
that the fork server starts.
A statement counts as the product's when the nearest caller outside of libraries is in ``eventstore``, ``projections``
or ``migrations``; what tests send themselves doesn't count. Children that are no forks of the fork server (the
installed program, the children of tests/fault) aren't recorded: others send their statements too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from psycopg._queries import PostgresClientQuery, PostgresQuery, PostgresRawQuery

VARIABLE = "TESTS_RECORD_STATEMENTS"
"""The environment variable with the folder of the recorded statements."""

QUERIES = (PostgresQuery, PostgresRawQuery, PostgresClientQuery)
_PLACEHOLDER = re.compile(rb"(?<!%)%s")

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = tuple(f"{ROOT / folder}{os.sep}" for folder in ("eventstore", "projections", "migrations"))
TESTS = f"{ROOT / 'tests'}{os.sep}"

_CHANGES = (
    (re.compile(r"\bkit_[0-9a-f]{12}"), "kit"),
    (re.compile(r"\brole_[0-9a-f]{8}\b"), "role"),
    (re.compile(r"\$\w*_[0-9a-f]{16}\$"), "$body$"),
    (re.compile(r"'(?:[^']|'')*'"), "?"),
    (re.compile(r'"(?:[^"]|"")*"'), '"?"'),
    # The tables of a projection are in public, and copies of them in these schemas.
    (re.compile(r"\b(?:public|pg_temp|projections_shadow|kit|as_of|back_then)\.(?=\w)"), "rows."),
    # A copy of a table is logged or not, as whoever creates it chooses.
    (re.compile(r"\bCREATE UNLOGGED TABLE\b"), "CREATE TABLE"),
    (re.compile(r"\$\d+"), "$"),
    (re.compile(r"(?<![\w$.])\d+(?:\.\d+)?\b"), "?"),
    (re.compile(r"\s+"), " "),
    (re.compile(r'("\?"(?:\."\?")?)(?:, \1)+'), r"\1, …"),
    (re.compile(r"([$?](?:::\w+(?:\[\])?)?)(?:, ?[$?](?:::\w+(?:\[\])?)?)+"), r"\1, …"),
    (re.compile(r"(\([^()]*\))(?:, ?\1)+"), r"\1, …"),
    # Which bounds a range of keys has depends on the data, and which columns are joined by on the version.
    (
        re.compile(r'(FROM rows\.\w+) WHERE (?:(?! AS "\?").)*\) AS "\?"(?= FULL OUTER JOIN | ON )'),
        r'\1 WHERE range) AS "?"',
    ),
    (re.compile(r'(\) AS "\?" ON )"\?"\.\w+ = "\?"\.\w+(?: AND "\?"\.\w+ = "\?"\.\w+)*(?= WHERE "\?")'), r"\1key"),
)

_TABLE = re.compile(r"\brows\.(\w+)")
_TEMPORARY = re.compile(r"differing_\d+|erasing_\w+|imported_ids|shadow_positions|events|projections_fold")
"""What the product creates in the schemas of a projection's tables."""
_VIEW_OF_A_PROJECTION = re.compile(r'CREATE (?:OR REPLACE )?VIEW "')
_KEYWORD = re.compile(r"\b[A-Z]+\b")
_CALL_CAST_OR_OPERATOR = re.compile(r"[a-z_][\w.]*(?=\()|::\w+(?:\[\])?|[-+*/<>=~!@#%^&|]+")


def normalised(text: str) -> str:
    """Return a statement without its values, the number of its parameters, and names and schemas that tests choose."""
    for pattern, replacement in _CHANGES:
        text = pattern.sub(replacement, text)
    return text.strip()


def statements_in(text: str) -> list[str]:
    """Return the normalised statements of one message; a text with a function's body in it is one statement.

    Of a statement about tables that only a test has, its keywords count, and the functions, casts and operators in it.
    """
    whole = normalised(text)
    parts = [whole] if "$$" in whole or "$body$" in whole else [each for each in whole.split("; ") if each]
    return [_form(part) if _is_about_tests(part) else part for part in parts]


def _is_about_tests(statement: str) -> bool:
    """Return whether it names a table that only a test's projection has, or a view of a projection."""
    others = (name for name in _TABLE.findall(statement) if not _TEMPORARY.fullmatch(name))
    return bool(_VIEW_OF_A_PROJECTION.match(statement)) or not _built_in().issuperset(others)


def _form(statement: str) -> str:
    """Return what Postgres must know of it: for tests' tables, the product composes such statements from columns."""
    keywords = [word for word, _ in groupby(_KEYWORD.findall(statement))]
    return " ".join([*keywords, *sorted(set(_CALL_CAST_OR_OPERATOR.findall(statement)))])


@cache
def _built_in() -> frozenset[str]:
    """Return the names of the built-in read models' tables and views."""
    from projections.migrating.metadata import READ_MODELS  # noqa: PLC0415 - only needed for recording
    from projections.read_models.common_columns import VIEWS  # noqa: PLC0415

    return frozenset({*VIEWS, *(table.name for model in READ_MODELS for table in model.tables)})


def uncovered(newest: Iterable[str], oldest: Iterable[str], exempt: Mapping[str, str]) -> list[str]:
    """Return the statements that were sent on the newest server but not on the oldest, sorted.

    Args:
        newest: normalised statements on the newest.
        oldest: normalised statements on the oldest.
        exempt: regular expressions of statements that need not be sent on the oldest, each with its reason.

    """
    missing = set(newest) - set(oldest)
    return sorted(each for each in missing if not any(re.search(pattern, each) for pattern in exempt))


class Recorder:
    """Appends each of the product's statements to a file, once in each process.

    Attributes:
        file: the file; None records nothing.

    """

    def __init__(self) -> None:
        self.file: Path | None = None
        self._seen: set[tuple[Path, str]] = set()

    def record(self, text: bytes) -> None:
        """Record a statement, if the product sends it."""
        if self.file is None or not _is_of_product(sys._getframe(2)):
            return
        for statement in statements_in(text.decode(errors="replace")):
            if (self.file, statement) not in self._seen:
                with suppress(OSError), self.file.open("a") as file:  # a test may limit the size of files
                    file.write(json.dumps(statement) + "\n")
                    self._seen.add((self.file, statement))

    def install(self) -> None:
        """Record what psycopg sends from now on."""
        for query_class in QUERIES:
            self._install(query_class)

    def _install(self, query_class: type[PostgresQuery]) -> None:
        convert = query_class.__dict__["convert"]

        def recorded(query: PostgresQuery, *arguments: Any) -> None:  # noqa: ANN401 - psycopg's parameters
            convert(query, *arguments)
            # Values that are in the text count as parameters.
            if isinstance(query, PostgresClientQuery) and query.params is not None:
                self.record(_PLACEHOLDER.sub(b"$1", query.template).replace(b"%%", b"%"))
            else:
                self.record(query.query)

        query_class.convert = recorded  # type: ignore[assignment, method-assign]


def read(file: Path) -> set[str]:
    """Return the statements in a file; none if it doesn't exist."""
    return {json.loads(line) for line in file.read_text().splitlines()} if file.exists() else set()


def _is_of_product(frame: FrameType | None) -> bool:
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PRODUCT):
            return True
        if name.startswith(TESTS) and name != __file__:
            return False
        frame = frame.f_back
    return True  # only library code is on the stack: the product started it
